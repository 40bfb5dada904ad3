"""How long a sweep will take and what it will cost, in words and as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from vesselflow.clusters.sites import Site
from vesselflow.reporting.cost_lines import dollars
from vesselflow.reporting.wording import MISSING, count, duration
from vesselflow.sweeps.cost_machine import MachineKind
from vesselflow.sweeps.estimate import Estimate
from vesselflow.sweeps.forecast import Forecast, Range
from vesselflow.sweeps.planning import SweepPlan


def plan_lines(plan: SweepPlan, site: Site, estimate: Estimate, forecast: Forecast) -> list[str]:
    """The plan in words: what is left, how fast, where, how long, for how much, and what may be."""
    runs = len({cell.run.run_id for cell in plan.cells})
    steps = sum(run.steps for run in estimate.runs)
    machines = ", ".join(f"{kind.count} x {kind.name}" for kind in site.machines)
    head = f", led by {site.head}" if site.head else ""
    lines = [
        plan.folder.name,
        f"runs:     {len(estimate.runs)} to do ({steps} steps), {runs - len(estimate.runs)} of "
        f"{runs} done",
        f"speed:    {_speed(estimate)} s a step, {estimate.source}",
        f"machines: {machines}{head}; {count(site.slots, 'slot')}",
        f"time:     {_range(forecast.wall_s, duration)}",
        f"cost:     {_cost(site, forecast)}",
    ]
    if forecast.losses.high > 0:
        lost = forecast.machines_lost
        lines.append(
            f"losses:   {lost.median:.0f} machines ({lost.low:.0f} to {lost.high:.0f}), "
            f"{forecast.repeated.median:.1%} of the work repeated"
        )
    if forecast.finished < 1:
        lines.append(f"warning:  {1 - forecast.finished:.0%} of the simulations never end")
    if forecast.failed > 0:
        lines.append(
            f"warning:  {forecast.failed:.2g} runs are given up on average, because they lose "
            "their machine too often"
        )
    lines += [f"note:     {note}" for note in (*site.notes, *estimate.notes)]
    lines.append(f"simulated {forecast.simulations} times; nothing was started")
    return lines


def plan_json(
    plan: SweepPlan, site: Site, estimate: Estimate, forecast: Forecast
) -> dict[str, Any]:
    """The plan as plain data; undefined and infinite numbers are None."""
    plain: dict[str, Any] = {
        "sweep": plan.folder.name,
        "runs": len(estimate.runs),
        "steps": sum(run.steps for run in estimate.runs),
        "slots": site.slots,
        "head": site.head,
        "machines": [asdict(machine) for machine in site.machines],
        "speed": {
            "source": estimate.source,
            "doubt": asdict(estimate.doubt),
            "kinds": {kind: asdict(pace) for kind, pace in estimate.paces.items()},
            "slot_s": estimate.slot_s,
        },
        **asdict(forecast),
        "notes": [*site.notes, *estimate.notes],
    }
    finite: dict[str, Any] = _finite(plain)
    return finite


def _cost(site: Site, forecast: Forecast) -> str:
    if not math.isnan(forecast.dollars.median):
        text = _range(forecast.dollars, dollars)
        if any(kind.mean_life_s < math.inf for kind in site.machines):
            text += f"; {dollars(forecast.on_demand_dollars.median)} on demand"
        return text
    names = [kind.name for kind in site.machines if math.isnan(kind.price)]
    names += [site.head] * math.isnan(site.settings.head_price)
    # A price is given by kind, whatever the market.
    kinds = list(dict.fromkeys(MachineKind.read(name).name for name in names))
    return (
        f"no price is known of {', '.join(kinds)} (prices: {{'{kinds[0]}': 0.10}} in the space "
        "gives one)"
    )


def _speed(estimate: Estimate) -> str:
    steps = sorted(pace.step_s for pace in estimate.paces.values())
    if not steps:
        return MISSING
    low, high = f"{steps[0]:.2g}", f"{steps[-1]:.2g}"
    return low if low == high else f"{low} to {high}"


def _range(value: Range, text: Callable[[float], str]) -> str:
    if value.low == value.high:
        return text(value.median)
    return f"{text(value.median)} ({text(value.low)} to {text(value.high)})"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
