"""Normalisations, by name: which centre and scale intensities get.

``NORMALISATIONS.build({"name": "median"})`` gives a `normalisation.Normalisation`. What it is
computed over (`normalise.scope`) is no business of its own. This module imports no numpy. A
normalisation is its file, its line here and its test.
"""

from vesselflow.config.registry import Registry

_HERE = "vesselflow.stores.normalisations"

NORMALISATIONS = Registry("normalisation")
NORMALISATIONS.add("standard", target=f"{_HERE}.standard:Standard")
NORMALISATIONS.add("percentile", target=f"{_HERE}.percentile:Percentile")
NORMALISATIONS.add("median", target=f"{_HERE}.median:Median")
