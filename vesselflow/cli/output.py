"""Where a command prints: a console of rich that tells when its reader went away."""

from __future__ import annotations

from rich.console import Console


class Output(Console):
    """Raises BrokenPipeError where rich would end the process with 1 and without a word."""

    def on_broken_pipe(self) -> None:
        """Called while a BrokenPipeError is handled: leave it to `main`."""
        self.quiet = True  # Nothing of what is printed from here on can be read.
        raise
