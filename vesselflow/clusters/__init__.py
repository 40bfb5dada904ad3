"""Cluster files: what they start, what that costs, and what in them would be regretted later.

`files` reads a file of `ray up`, `machines` knows what machines offer and cost; the checks are pure
functions over what was read. Nothing here starts anything, needs Ray or asks a cloud.
"""
