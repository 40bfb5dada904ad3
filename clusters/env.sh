# What every shell on a node exports, the driver's too: sourced by the commands of the cluster files
# and by ~/.bashrc. For bash; it prints nothing.

# The environment that the set-up made, before all else.
export PATH="$HOME/venv/bin:$PATH"

# A machine that vanishes without a word is dead after 9 s instead of 64, and calls that were on
# their way to it fail within 10 s instead of 7 minutes (gRPC's own keep-alive).
export RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=2000
export RAY_health_check_failure_threshold=3
export RAY_grpc_client_keepalive_time_ms=5000
export RAY_grpc_client_keepalive_timeout_ms=5000

# A slot of several workers waits for machines that are still being set up, some minutes each.
export RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=1800

# Whoever has no token (~/.ray/auth_token) gets no answer.
export RAY_AUTH_MODE=token

# After how long without enough spot machines the driver asks for others: what the cluster file
# says, which `ray up` copies to the head.
if [ -f "$HOME/ray_bootstrap_config.yaml" ]; then
  minutes=$(sed -n 's/.*"on_demand_after_minutes": *\([0-9.]*\).*/\1/p' "$HOME/ray_bootstrap_config.yaml")
  if [ -n "$minutes" ]; then export VESSELFLOW_ON_DEMAND_AFTER_S="${minutes}m"; fi
fi

# What the set-up of this cluster adds: the region of its bucket, for instance.
if [ -f "$HOME/.vesselflow-env" ]; then . "$HOME/.vesselflow-env"; fi
