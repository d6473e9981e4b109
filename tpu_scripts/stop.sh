#!/usr/bin/env bash
# Ends a run and leaves the slice: every worker is asked to save a checkpoint and end. launch.sh goes on from it.
#
#   tpu_scripts/stop.sh --project=P --zone=Z --name=N [--wait=600] [--dry-run]
#
#   --project, --zone, --name  or R1JAX_PROJECT, R1JAX_ZONE, R1JAX_NAME
#   --wait=SECONDS             for the checkpoint to be written; what has not ended by then is killed
#   --dry-run                  prints the command
#
# The slice is paid for until delete.sh has deleted it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/command.sh"
source "$here/workers.sh"

project=${R1JAX_PROJECT:-} zone=${R1JAX_ZONE:-} name=${R1JAX_NAME:-}
wait=600
OPTIONS="project zone name wait"
read_options "$@"
need_project
need_names zone name
need_counts wait
need_program gcloud "$GCLOUD_FROM"

on_workers all all "$WORKER" stop "$name" "$wait"
