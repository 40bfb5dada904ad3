"""Equal-weight mean of a model's weights (stochastic weight averaging)."""

from __future__ import annotations

from vesselflow.models.averages import Average


class Swa(Average):
    """Mean of all weights that it was given, with floating buffers: each counts the same.

    Izmailov et al. run the training data through the averaged network once more for the statistics
    of its batch-norms. Here these are averaged like the weights: no pass over data, no further
    state, and the scores stay a function of what a checkpoint holds (README.md has what it costs).

    Reference: Izmailov et al., Averaging weights leads to wider optima and better generalization,
    UAI 2018, https://arxiv.org/abs/1803.05407, algorithm 1.
    """

    def share(self) -> float:
        """1 / (n + 1) after n updates; the first weights replace the initial ones."""
        return 1.0 / (self.updates + 1)
