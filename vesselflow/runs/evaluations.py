"""An evaluation: a run's weights of one epoch, on one domain, by one protocol."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from vesselflow.config.fingerprint import evaluation_id
from vesselflow.runs.domains import Domain
from vesselflow.runs.protocols import Protocol


@dataclass(frozen=True)
class Evaluation:
    """What is to be scored, and how.

    Attributes:
        run_id: Name of the run.
        epoch: Epoch of the weights, counted from 1.
        domain: The images.
        protocol: How they are scored.
    """

    run_id: str
    epoch: int
    domain: Domain
    protocol: Protocol

    @cached_property
    def name(self) -> str:
        """20 hex digits over all that determines its scores.

        The reported metrics are no part of it: each value stands beside the version of its metric,
        so that a new or mended one computes itself alone.
        """
        return evaluation_id(
            self.run_id,
            epoch=self.epoch,
            domain_digest=self.domain.digest,
            settings=self.protocol.text,
        )
