"""Metrics, by name."""

from vesselflow.config.registry import Registry

METRICS = Registry("metric")
