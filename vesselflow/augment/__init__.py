"""Augmentations and normalisation, by name."""

from vesselflow.config.registry import Registry

AUGMENTATIONS = Registry("augmentation")
