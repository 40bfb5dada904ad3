"""Machines that are about to go: what is known of them, and how a person is told. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Leaving:
    """A machine that was given notice.

    Attributes:
        host: Its name.
        left_s: Seconds until it goes, when it was first heard; None where nobody said.
        why: What was said, "" for nothing.
    """

    host: str
    left_s: float | None = None
    why: str = ""

    def line(self, runs: int) -> str:
        """What a person is told.

        Args:
            runs: Runs that slots hold there.
        """
        when = "soon" if self.left_s is None else f"in {self.left_s:.0f} s"
        why = f" ({self.why})" if self.why else ""
        what = "; no run is on it"
        if runs:
            what = f"; its {runs} runs go elsewhere" if runs > 1 else "; its run goes elsewhere"
        return f"machine {self.host} leaves {when}{why}{what}"
