"""vesselflow: ablation sweeps for vessel segmentation, from one YAML file and one command."""

__version__ = "0.2.0"
