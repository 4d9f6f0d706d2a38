"""Where Protenix's chemical components come from: residues, nucleotides, ligands and ions by their CCD code.

Protenix reads them from two files that it downloads, `components.cif` and a pickle of rdkit molecules. Where
both are on disk they are used. Elsewhere biotite's copy of the same dictionary, which lies inside its
package, is served instead: nothing is downloaded, and a component is made when somebody asks for it.

    components = open_components()
    "ATP" in components                  # a catalog, for checking an input
    components.heavy_atoms("ATP")
    components.install_for(job)          # from here on Protenix's own functions answer

Protenix is served through data alone: the module variables that hold its two files, see
`protenix_state`. Both are replaced by mappings that make a component on first use, so every code of the
dictionary is always there, and Protenix's caches never remember a missing answer for a code that exists.
`ensure` and `install_for` only bring forward, and do together, what would otherwise happen code by code:
reading biotite's dictionary takes half a second however many components are taken from it.

What was made is kept on disk (`store`), so a later process reads a small file for each component. Deleting
that folder is always safe.
"""

from __future__ import annotations

from flashbias_fold.protenix_adapter.components.catalog import Components
from flashbias_fold.protenix_adapter.components.jobs import job_codes
from flashbias_fold.protenix_adapter.components.sources import open_components

__all__ = ["Components", "job_codes", "open_components"]
