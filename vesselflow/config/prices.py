"""What a user says that machines cost; changes no result."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vesselflow.config.experiment import Section

Dollars = Annotated[float, Field(ge=0)]


class PriceSpec(Section):
    """What an hour of one kind of machine costs, in dollars; null keeps what the table says."""

    on_demand: Dollars | None = Field(None, description="Dollars an hour, bought so that it stays")
    spot: Dollars | None = Field(None, description="Dollars an hour, bought so that it may vanish")
