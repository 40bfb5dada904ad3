"""Points, runs, slots, study and tuner: everything that talks to Ray."""

import os

# The raylet warns whenever the processes of a node pass a multiple of its CPUs. Ours do on purpose:
# broker, relay trials and Ray Train's helpers own no CPU. It comes as a published error, which is
# printed into the live view whatever `log_to_driver` says. Ray reads this when it is imported.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker processes have been started on node")
