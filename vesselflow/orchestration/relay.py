"""Relay trials: Tune's view of a point. They own no CPU, train nothing, and pass news on."""

from __future__ import annotations

import math
from typing import Any

import ray
from ray import tune

#: Every cluster has it, also one that `ray up` made (a custom resource would not exist there).
RESOURCES = {"CPU": 0, "node:__internal_head__": 0.001}


class Relay(tune.Trainable):
    """Submits a point's runs to the broker and reports their validation scores."""

    def setup(self, config: dict[str, Any]) -> None:
        """Find the broker and submit the point's runs."""
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next point in the same process."""
        self._start(new_config)
        return True

    def _start(self, config: dict[str, Any]) -> None:
        self._broker = ray.get_actor(config["broker"], config["namespace"])
        self._point, self._objective = config["point_name"], config["objective"]
        self._runs, self._values = ray.get(self._broker.submit.remote(self._point))
        self._latest: dict[str, float] = {}
        self._failed = 0
        self._seen = 0

    def step(self) -> dict[str, Any]:
        """Wait for news of the point's runs and report the mean of what is known."""
        while True:
            self._seen, events, done = ray.get(self._broker.poll.remote(self._runs, self._seen))
            for event in events:
                if event["type"] == "finished":
                    self._values[event["run_id"]] = event["values"][self._point]
                elif event["type"] == "failed":
                    self._failed += 1
                elif event["type"] == "epoch" and self._objective.curve in event["values"]:
                    self._latest[event["run_id"]] = event["values"][self._objective.curve]
            if events or done:
                break
        known = self._values if done else {**self._latest, **self._values}
        defined = [value for value in known.values() if not math.isnan(value)]
        # Optuna refuses NaN as a trial's value; an infinite one says "no defined score".
        value = self._objective.reduce(defined) if defined else self._objective.worst
        return {
            "objective": value,
            "runs_done": len(self._values),
            "runs_failed": self._failed,
            "done": done,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the runs' own records are the truth."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the runs' own records are the truth."""
