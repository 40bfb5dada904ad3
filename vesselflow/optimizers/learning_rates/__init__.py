"""Learning-rate schedules, by name.

``LEARNING_RATES.build({"name": "cosine", "warmup": 0.05})(step, steps, losses)`` is the factor on
the optimizer's `lr`; `losses` are the mean training losses of the epochs so far, which `plateau`
alone looks at. (A scalar of a loss that moves over training is something else:
`vesselflow.config.scalars`.)
"""

from vesselflow.config.registry import Registry
from vesselflow.optimizers.learning_rates.constant import ConstantArguments
from vesselflow.optimizers.learning_rates.cosine import CosineArguments, is_revised
from vesselflow.optimizers.learning_rates.cyclic import CyclicArguments
from vesselflow.optimizers.learning_rates.linear import LinearArguments
from vesselflow.optimizers.learning_rates.one_cycle import OneCycleArguments
from vesselflow.optimizers.learning_rates.plateau import PlateauArguments
from vesselflow.optimizers.learning_rates.polynomial import PolynomialArguments
from vesselflow.optimizers.learning_rates.step import StepArguments
from vesselflow.optimizers.learning_rates.triangular import TriangularArguments
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
LEARNING_RATES.add("linear", target=f"{_HERE}.linear:Linear", arguments=LinearArguments)
LEARNING_RATES.add(
    "polynomial", target=f"{_HERE}.polynomial:Polynomial", arguments=PolynomialArguments
)
LEARNING_RATES.add("step", target=f"{_HERE}.step:Stepped", arguments=StepArguments)
LEARNING_RATES.add("one_cycle", target=f"{_HERE}.one_cycle:OneCycle", arguments=OneCycleArguments)
LEARNING_RATES.add(
    "triangular", target=f"{_HERE}.triangular:Triangular", arguments=TriangularArguments
)
LEARNING_RATES.add("plateau", target=f"{_HERE}.plateau:Plateau", arguments=PlateauArguments)
