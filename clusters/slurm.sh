#!/bin/bash
# A sweep in a queue of Slurm. The page "On a cluster" (README.md beside this file) goes through all
# of it once.
#
# What it starts: Ray on the machines of one job, slots on all of them, the driver on the first. The
# job's time limit counts as a notice: 5 minutes before it the runs write checkpoints, and the job
# puts itself into the queue again, until the sweep is done.
#
# What it costs an hour: CPUs (or GPUs) x nodes of your allocation; `sacct -j ID -o elapsed,alloctres`.
#
# From nothing to the end, on a login node, in the folder of the repository (after `make`), which all
# nodes must see, as they must see the results:
#   sbatch clusters/slurm.sh search_spaces/loss_beta.yaml                 # options of `sweep` may follow
#   sbatch --nodes=4 --time=12:00:00 --partition=short clusters/slurm.sh search_spaces/loss_beta.yaml
#   squeue --me                          # waits, runs
#   tail -f slurm-ID.out                 # what the driver says
#   .venv/bin/vesselflow runs results    # runs and their states
#   scancel ID                           # ends it for good; the same sbatch carries on
# Dashboard: the job's output names the node and the port; from your laptop
#   ssh -J LOGIN-NODE -L 8265:127.0.0.1:PORT NODE, then http://localhost:8265
#
# Options on sbatch's command line go before those here.
#SBATCH --job-name=vesselflow
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=2G
##SBATCH --gpus-per-node=1
##SBATCH --partition=...
##SBATCH --account=...
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out

set -u
here=${SLURM_SUBMIT_DIR:-$PWD}
cd "$here" || exit 2
. clusters/env.sh
. "${VESSELFLOW_VENV:-.venv}/bin/activate" || exit 2
# How often in a row the driver may fail (exit code 1, or killed) before the job gives up.
tries=${VESSELFLOW_TRIES:-3}
failures=slurm-${VESSELFLOW_CHAIN:-$SLURM_JOB_ID}.failures
cpus=${SLURM_CPUS_PER_TASK:-1}
driver="" asked="" code=143 steps=()

say() { echo "$(date '+%F %T') slurm.sh: $*"; }

# What starts a command on some nodes of the job. A node that fails takes no other one along.
on=(srun --overlap --no-kill --kill-on-bad-exit=0 --ntasks-per-node=1 "--cpus-per-task=$cpus")

# The same job once more; or a new one of the same words, where the queue takes no job twice.
again() {
  if scontrol requeue "$SLURM_JOB_ID"; then
    say "in the queue again"
    return
  fi
  script=${VESSELFLOW_SCRIPT:-$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=\([^ ]*\).*/\1/p')}
  say "this queue takes no job twice: a new one, which knows the options in $script alone"
  export VESSELFLOW_CHAIN=${VESSELFLOW_CHAIN:-$SLURM_JOB_ID} VESSELFLOW_SCRIPT=$script
  sbatch --dependency="afterany:$SLURM_JOB_ID" "$script" "$@" || exit 1
}

# USR1 comes 5 minutes before the limit (--signal), TERM when the job is cancelled or displaced.
stop() {
  asked=$1
  say "$2: the runs write checkpoints"
  if [ -n "$driver" ]; then kill -TERM "$driver" 2>/dev/null; fi
}
trap 'stop limit "the time limit comes"' USR1
trap 'stop cancelled "cancelled"' TERM

# Whoever else is on these machines has no token, and gets no answer.
ray get-auth-token --generate >/dev/null || exit 2
# Sockets need short names, and other jobs on the same machine other ones.
export RAY_TMPDIR=/tmp/vf-$SLURM_JOB_ID
port=$((20000 + SLURM_JOB_ID % 20000))
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || exit 2
head=$(head -n 1 <<<"$nodes") count=$(wc -l <<<"$nodes")
"${on[@]}" --nodes="$count" --ntasks="$count" mkdir -p "$RAY_TMPDIR"
# Ray's own idea of it: what `hostname` says may be 127.0.1.1.
address=$("${on[@]}" --nodes=1 --ntasks=1 --nodelist="$head" \
  python -c 'import ray; print(ray.util.get_node_ip_address())') || exit 2

"${on[@]}" --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --block --port="$port" \
  --node-ip-address="$address" --num-cpus="$cpus" \
  --dashboard-host=127.0.0.1 --dashboard-port=$((port + 1)) &
steps+=($!)
up=""
for _ in {1..60}; do
  if [ -n "$asked" ]; then break; fi
  # It answers long before the head's own node has joined, which the driver needs.
  joined=$(ray status --address="$address:$port" 2>/dev/null | grep -A1 '^Active:')
  case $joined in *[0-9]*) up=yes && break ;; esac
  sleep 2
done
if [ -n "$up" ] && [ "$count" -gt 1 ]; then
  "${on[@]}" --nodes=$((count - 1)) --ntasks=$((count - 1)) --exclude="$head" \
    ray start --block --address="$address:$port" --num-cpus="$cpus" &
  steps+=($!)
fi
"${on[@]}" --nodes="$count" --ntasks="$count" \
  python -m vesselflow.notices watch --cloud none --address "$address:$port" &
steps+=($!)

if [ -n "$asked" ]; then
  code=143
elif [ -z "$up" ]; then
  say "Ray does not answer at $address:$port"
  code=1
else
  say "Ray on $count nodes at $address:$port; dashboard: node $head, port $((port + 1))"
  vesselflow sweep "$@" --address "$address:$port" &
  driver=$!
  if [ -n "$asked" ]; then kill -TERM "$driver"; fi # it came while the driver was started
  while true; do
    wait "$driver"
    code=$?
    # A signal ends the waiting, not the driver.
    if [ "$code" -le 128 ] || ! kill -0 "$driver" 2>/dev/null; then break; fi
  done
fi
kill -TERM "${steps[@]}" 2>/dev/null

case $code:$asked in
0:*) say "the sweep is done" ;;
2:*) say "something given is wrong, and would be so again" ;;
*:cancelled) say "cancelled; the same sbatch carries on" ;;
*:limit)
  again "$@"
  code=0
  ;;
*)
  echo "$code" >>"$failures"
  failed=$(wc -l <"$failures")
  if [ "$failed" -lt "$tries" ]; then
    say "the driver ended with code $code, $failed of $tries times in a row"
    again "$@"
    exit 0
  fi
  say "the driver ended with code $code, $failed times in a row; slurm.sh gives up"
  ;;
esac
rm -f "$failures"
exit "$code"
