"""Everything that touches `protenix`: no other room imports it.

Importing Protenix has side effects (it compiles a CUDA LayerNorm and configures the root logger), so
modules here call `environment.prepare()` before they import from it.
"""
