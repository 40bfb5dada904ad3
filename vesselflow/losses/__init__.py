"""Losses and their schedules, by name."""

from vesselflow.config.registry import Registry

LOSSES = Registry("loss")
