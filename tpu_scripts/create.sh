#!/usr/bin/env bash
# Asks Cloud TPU for a slice as a queued resource, and waits until it is there.
#
#   tpu_scripts/create.sh --project=P --zone=Z --name=N --type=v5p-2048 --runtime=v2-alpha-tpuv5 [options]
#
#   --project, --zone, --name  or R1JAX_PROJECT, R1JAX_ZONE, R1JAX_NAME
#   --type=TYPE        accelerator type; v5p counts TensorCores, two a chip (v5p-2048: 1,024 chips), v6e counts chips
#   --runtime=VERSION  software of the VMs: v2-alpha-tpuv5 (v5p), v2-alpha-tpuv6e (v6e), v2-alpha-tpuv5-lite (v5e)
#   --slices=N         slices joined by the data centre's network; 1
#   --spot             cheaper, and may be taken back at any time; without it, on demand
#   --reserved         from the project's reservation
#   --valid-for=TIME   gives up if there is no capacity by then, such as 6h
#   --service-account=ACCOUNT  that the VMs act as; the project's default
#   --network=NAME --subnetwork=NAME  the default ones
#   --poll=SECONDS     between two looks at the queue; 30
#   --no-wait          returns at once
#   --dry-run          prints the commands
set -euo pipefail
source "$(dirname "$0")/command.sh"

project=${R1JAX_PROJECT:-} zone=${R1JAX_ZONE:-} name=${R1JAX_NAME:-}
type="" runtime="" slices=1 valid_for="" service_account="" network="" subnetwork="" poll=30
spot="" reserved="" no_wait=""
OPTIONS="project zone name type runtime slices valid-for service-account network subnetwork poll"
SWITCHES="spot reserved no-wait"
read_options "$@"
need_project
need_names zone name type runtime
need_counts slices poll
[[ -z $spot || -z $reserved ]] || refuse "--spot and --reserved exclude each other; give one"
need_program gcloud "$GCLOUD_FROM"

where=(--project="$project" --zone="$zone")
# A node is a slice. One is named as its request is; of several each gets a number behind the name.
if ((slices == 1)); then nodes=(--node-id="$name"); else nodes=(--node-count="$slices" --node-prefix="$name"); fi
options=()
if [[ -n $spot ]]; then options+=(--spot); fi
if [[ -n $reserved ]]; then options+=(--reserved); fi
if [[ -n $valid_for ]]; then options+=(--valid-until-duration="$valid_for"); fi
if [[ -n $service_account ]]; then options+=(--service-account="$service_account"); fi
if [[ -n $network ]]; then options+=(--network="$network"); fi
if [[ -n $subnetwork ]]; then options+=(--subnetwork="$subnetwork"); fi

run gcloud compute tpus queued-resources create "$name" "${where[@]}" --accelerator-type="$type" \
  --runtime-version="$runtime" "${nodes[@]}" "${options[@]}"
if [[ -n $no_wait ]]; then exit 0; fi

state() { run gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)'; }
if [[ -n $dry_run ]]; then
  note "again every $poll s until it says ACTIVE; FAILED and SUSPENDED end the wait"
  state
  exit 0
fi
last=""
while true; do
  now=$(state)
  if [[ $now != "$last" ]]; then note "$(date -u +%H:%M:%S) $name: $now"; fi
  last=$now
  case $now in
    ACTIVE) exit 0 ;;
    FAILED | SUSPENDED | SUSPENDING | DELETING)
      echo "error: $name is $now; see why with: $(quoted gcloud compute tpus queued-resources describe "$name" "${where[@]}")" >&2
      exit 1
      ;;
  esac
  sleep "$poll"
done
