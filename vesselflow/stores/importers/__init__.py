"""Importers, one file per source layout, by name."""

from vesselflow.config.registry import Registry

IMPORTERS = Registry("layout")
