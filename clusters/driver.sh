#!/bin/bash
# The driver on the head of a cluster: a sweep that starts again by itself until it is done.
#
#   bash ~/vesselflow/clusters/driver.sh SPACE [options of `vesselflow sweep`]
#
# Results go where the cluster file says (metadata.vesselflow.storage), unless --results says
# otherwise. SIGTERM and Ctrl-C stop it as they stop a sweep: runs write checkpoints, and the same
# command carries on. Ends with the code of the sweep: 0 done; 2 something given is wrong; 1 after
# three failures in a row.
set -u
. "$HOME/vesselflow/clusters/env.sh"
cd "$HOME/vesselflow" || exit 2
tries=${VESSELFLOW_TRIES:-3} pause=${VESSELFLOW_PAUSE_S:-10}
child="" asked="" failed=0

say() { echo "$(date '+%F %T') driver.sh: $*"; }

storage='
import sys, yaml
print(yaml.safe_load(open(sys.argv[1]))["metadata"]["vesselflow"]["storage"])
'
case " $* " in
*" --results "* | *" --results="*) results=() ;;
*)
  results=(--results "$(python -c "$storage" "$HOME/ray_bootstrap_config.yaml")") || {
    say "the cluster file names no storage; say --results"
    exit 2
  }
  ;;
esac

stop() {
  asked=yes
  if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null; fi
}
trap stop TERM INT

while true; do
  began=$SECONDS
  vesselflow sweep "$@" "${results[@]}" --address auto &
  child=$!
  if [ -n "$asked" ]; then kill -TERM "$child"; fi
  while true; do
    wait "$child"
    code=$?
    # A signal ends the waiting, not the sweep.
    if [ "$code" -le 128 ] || ! kill -0 "$child" 2>/dev/null; then break; fi
  done
  child=""
  if [ "$code" = 0 ] || [ "$code" = 2 ] || [ -n "$asked" ]; then break; fi
  # One that went well for an hour begins the count anew.
  if [ $((SECONDS - began)) -gt 3600 ]; then failed=0; fi
  failed=$((failed + 1))
  if [ "$failed" -ge "$tries" ]; then
    say "the sweep ended with code $code, $failed times in a row; giving up"
    break
  fi
  say "the sweep ended with code $code; again in $pause s ($failed of $tries)"
  sleep "$pause" &
  wait $!
  if [ -n "$asked" ]; then break; fi
done
exit "$code"
