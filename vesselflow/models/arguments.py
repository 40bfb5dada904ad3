"""What the arguments of several models have in common; imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Channels = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]

#: Groups of a group norm of volumes; channels that they do not divide get one group.
GROUPS = 8
