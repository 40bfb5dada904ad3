"""All registries in one place; imports neither torch nor ray."""

from __future__ import annotations

from vesselflow.augment import AUGMENTATIONS
from vesselflow.config.registry import Registry
from vesselflow.config.samplers import SAMPLERS
from vesselflow.feed.sampling import SAMPLING
from vesselflow.losses import LOSSES
from vesselflow.metrics import ALL_METRICS
from vesselflow.metrics.thresholds import THRESHOLDS
from vesselflow.models import MODELS
from vesselflow.models.layers import (
    ACTIVATIONS,
    CONVOLUTIONS,
    EXCITATIONS,
    FUSIONS,
    NORMS,
    SKIP_GATES,
    WINDOW_FUSIONS,
)
from vesselflow.optimizers import OPTIMIZERS
from vesselflow.optimizers.learning_rates import LEARNING_RATES
from vesselflow.stores.importers import IMPORTERS
from vesselflow.stores.normalisations import NORMALISATIONS
from vesselflow.stores.synth import SYNTH_KINDS
from vesselflow.tasks import TASKS

#: What `config` validates and names parts with: sections of the experiment that are parts, then
#: what single keys name ("task" of `task`, "normalisation" of `normalise`, "sampler" of `search`,
#: "importer" and "synth" of stores, "metric" of `objective`, "threshold" and "threshold metric" of
#: `score`, and the layers that arguments of models name).
REGISTRIES: dict[str, Registry] = {
    "task": TASKS,
    "sampling": SAMPLING,
    "augment": AUGMENTATIONS,
    "model": MODELS,
    "convolution": CONVOLUTIONS,
    "norm": NORMS,
    "activation": ACTIVATIONS,
    "se": EXCITATIONS,
    "fusion": FUSIONS,
    "window fusion": WINDOW_FUSIONS,
    "skip_gate": SKIP_GATES,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": LEARNING_RATES,
    "normalisation": NORMALISATIONS,
    "sampler": SAMPLERS,
    "importer": IMPORTERS,
    "synth": SYNTH_KINDS,
    "metric": ALL_METRICS,
    "threshold": THRESHOLDS,
    "threshold metric": ALL_METRICS.choosing(),
}
