"""The registry itself, apart from its lines: `compose` holds it, and is one of them."""

from vesselflow.config.registry import Registry

LOSSES = Registry("loss")
