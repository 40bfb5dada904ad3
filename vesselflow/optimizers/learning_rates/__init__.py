"""Learning-rate schedules, by name.

``LEARNING_RATES.build({"name": "cosine", "warmup": 0.05})(step, steps)`` is the factor on the
optimizer's `lr`. (A scalar of a loss that moves over training is something else:
`vesselflow.config.scalars`.)
"""

from vesselflow.config.registry import Registry
from vesselflow.optimizers.learning_rates.constant import ConstantArguments
from vesselflow.optimizers.learning_rates.cosine import CosineArguments, is_revised
from vesselflow.optimizers.learning_rates.cyclic import CyclicArguments
from vesselflow.optimizers.learning_rates.warmed import warms_to_the_end

_HERE = "vesselflow.optimizers.learning_rates"

LEARNING_RATES = Registry("schedule")
LEARNING_RATES.add(
    "constant",
    target=f"{_HERE}.constant:Constant",
    arguments=ConstantArguments,
    revised=(2, warms_to_the_end),
    changes={2: "a warm-up leaves one step at full rate at least"},
)
LEARNING_RATES.add(
    "cosine",
    target=f"{_HERE}.cosine:Cosine",
    arguments=CosineArguments,
    revised=(2, is_revised),
    changes={2: "it ends on its floor, and a warm-up leaves one step at least"},
)
LEARNING_RATES.add(
    "cyclic",
    target=f"{_HERE}.cyclic:Cyclic",
    arguments=CyclicArguments,
    version=2,
    changes={2: "cycles have whole steps and restart at the top"},
)
