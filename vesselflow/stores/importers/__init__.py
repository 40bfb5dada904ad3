"""Importers, one file per source layout, by name.

An importer only lists files: it gets the folder and its own arguments and returns a
`listing.Listing`. Reading, checking and writing are shared (`read.py`, `run.py`). A layout is its
file with its argument model, its line here and its test.
"""

from vesselflow.config.registry import Registry
from vesselflow.stores.importers.chase import ChaseArguments
from vesselflow.stores.importers.folder import FolderArguments
from vesselflow.stores.importers.stare import StareArguments
from vesselflow.stores.importers.volume import VolumeArguments

_HERE = "vesselflow.stores.importers"

IMPORTERS = Registry("layout")
IMPORTERS.add("chase", target=f"{_HERE}.chase:chase", arguments=ChaseArguments)
IMPORTERS.add("stare", target=f"{_HERE}.stare:stare", arguments=StareArguments)
IMPORTERS.add("folder", target=f"{_HERE}.folder:folder", arguments=FolderArguments)
IMPORTERS.add("volume", target=f"{_HERE}.volume_listing:volume", arguments=VolumeArguments)
