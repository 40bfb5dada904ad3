"""What turns gradients into weights, by name: optimizers here, in `learning_rates` their rates.

``OPTIMIZERS.build({"name": "sgd", "momentum": 0.9}, parameters=model.parameters())`` gives a
`torch.optim.Optimizer`. This module imports no torch.
"""

from vesselflow.config.registry import Registry
from vesselflow.optimizers.adam import AdamArguments
from vesselflow.optimizers.adamw import AdamWArguments
from vesselflow.optimizers.arguments import LionArguments
from vesselflow.optimizers.radam import RAdamArguments
from vesselflow.optimizers.sgd import SgdArguments

OPTIMIZERS = Registry("optimizer")
OPTIMIZERS.add("adamw", target="vesselflow.optimizers.adamw:adamw", arguments=AdamWArguments)
OPTIMIZERS.add("adam", target="vesselflow.optimizers.adam:adam", arguments=AdamArguments)
OPTIMIZERS.add("sgd", target="vesselflow.optimizers.sgd:sgd", arguments=SgdArguments)
OPTIMIZERS.add("radam", target="vesselflow.optimizers.radam:radam", arguments=RAdamArguments)
OPTIMIZERS.add("lion", target="vesselflow.optimizers.lion:lion", arguments=LionArguments)
