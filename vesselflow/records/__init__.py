"""Files that are whole or absent: checkpoints, run records, leases."""
