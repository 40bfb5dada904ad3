"""The training step and loop, without Ray."""
