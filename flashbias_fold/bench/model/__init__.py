"""Whole predictions, stock Protenix against ours, by stage and by kind of layer.

`options` says what can be asked for and imports nothing heavy, `run` measures, `record` writes files.
"""
