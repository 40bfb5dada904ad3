"""The training step and loop, without Ray: runs in a plain process, a notebook or a DDP worker."""
