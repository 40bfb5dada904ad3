"""A sweep that is disturbed on purpose, by a seeded schedule, and held against one that was not.

`schedule` is pure: what is done, to whom, and when, in shares of the sweep's own progress.
`machines` is a Ray cluster of several nodes in a process of its own (`node_process`), `play` plays
a schedule on a sweep there, and `comparison` says what must hold afterwards.
"""
