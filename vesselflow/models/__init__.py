"""Models, by name."""

from vesselflow.config.registry import Registry

MODELS = Registry("model")
