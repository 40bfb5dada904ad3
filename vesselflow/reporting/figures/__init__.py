"""The figures of a sweep as PNG, each with the numbers that it shows as CSV beside it."""

from vesselflow.reporting.figures.drawn import write_figures

__all__ = ["write_figures"]
