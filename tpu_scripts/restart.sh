#!/usr/bin/env bash
# Watches a run until it is finished. A slice that is not there, or was taken back, is asked for, set up, and the run
# launched; a run that ended too early is launched again, too. It goes on from its last checkpoint, so keep the workdir
# in a bucket.
#
#   tpu_scripts/restart.sh --project=P --zone=Z --name=N --type=T --runtime=V --bucket=B \
#     --config=configs/NAME.py --workdir=bucket/runs/NAME [--spot] [options] [-- FLAGS]
#
#   the options of create.sh, setup.sh and launch.sh, but --no-wait, and
#   --attempts=N    runs that may end too early before it gives up; a slice taken back does not count; 10
#   --dry-run       prints the commands of one round
#
# It runs where you start it (a small VM, or a terminal that stays open): nothing on the slice outlives the slice.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/command.sh"
source "$here/workers.sh"

project=${R1JAX_PROJECT:-} zone=${R1JAX_ZONE:-} name=${R1JAX_NAME:-}
type="" runtime="" slices=1 valid_for="" service_account="" network="" subnetwork="" poll=30 attempts=10
ref=HEAD bucket="" config="" workdir="" spot="" reserved=""
OPTIONS="project zone name type runtime slices valid-for service-account network subnetwork poll attempts ref bucket config workdir"
SWITCHES="spot reserved"
read_options "$@"
need_project
need_names zone name type runtime
need bucket config workdir
need_counts slices poll attempts
need_program gcloud "$GCLOUD_FROM"

slice=(--project="$project" --zone="$zone" --name="$name" ${dry_run:+--dry-run})
create=("$here/create.sh" "${slice[@]}" --type="$type" --runtime="$runtime" --slices="$slices" --poll="$poll" ${spot:+--spot}
  ${reserved:+--reserved} ${valid_for:+--valid-for="$valid_for"} ${service_account:+--service-account="$service_account"}
  ${network:+--network="$network"} ${subnetwork:+--subnetwork="$subnetwork"})
setup=("$here/setup.sh" "${slice[@]}" --ref="$ref" --bucket="$bucket")
launch=("$here/launch.sh" "${slice[@]}" --config="$config" --workdir="$workdir" -- "${REST[@]}")

slice_state() {
  run gcloud compute tpus queued-resources describe "$name" --project="$project" --zone="$zone" --format='value(state.state)'
}
run_state() { on_workers 0 0 "$WORKER" state "$name"; }

# What still runs on other workers would refuse the launch.
again() {
  "$here/stop.sh" "${slice[@]}" --wait=120
  "${launch[@]}"
}

# renew STATE: && because `set -e` does not hold in a function whose outcome is asked for.
renew() {
  { [[ $1 == GONE ]] || "$here/delete.sh" "${slice[@]}"; } && "${create[@]}" && "${setup[@]}" && "${launch[@]}"
}

if [[ -n $dry_run ]]; then
  note "every $poll s, until the run is finished:"
  slice_state
  note "if that says ACTIVE:"
  run_state
  note "  finished, or exited 2 (bad input): that is all; exited otherwise, or none:"
  again
  note "if it says SUSPENDED or FAILED (without the first command, if there is no such slice):"
  renew SUSPENDED
  exit 0
fi

failed=0
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
while true; do
  now=$(slice_state 2>"$errors") || {
    if grep -q NOT_FOUND "$errors"; then now=GONE; else now=unknown && cat "$errors" >&2; fi
  }
  case $now in
    ACTIVE)
      run_now=$(run_state) || run_now=unreachable # a slice on its way out: the next look says so
      case $run_now in
        finished)
          note "$name: finished"
          exit 0
          ;;
        "exited 2")
          echo "error: $name was refused as bad input; see why with $here/logs.sh" >&2
          exit 2
          ;;
        exited* | none)
          note "$(date -u +%H:%M:%S) $name: $run_now"
          if [[ $run_now != none ]]; then failed=$((failed + 1)); fi
          if ((failed >= attempts)); then
            echo "error: $name ended too early $failed times; see why with $here/logs.sh" >&2
            exit 1
          fi
          again || note "$name: launch failed; again in $poll s"
          ;;
      esac
      ;;
    SUSPENDED | FAILED | GONE)
      note "$(date -u +%H:%M:%S) $name: $now"
      renew "$now" || note "$name: not renewed; again in $poll s"
      ;;
  esac
  sleep "$poll"
done
