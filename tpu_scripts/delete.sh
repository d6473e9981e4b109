#!/usr/bin/env bash
# Deletes a queued resource with its VMs and their disks. What lies in a bucket stays.
#
#   tpu_scripts/delete.sh --project=P --zone=Z --name=N [--dry-run]
#
#   --project, --zone, --name  or R1JAX_PROJECT, R1JAX_ZONE, R1JAX_NAME
#   --dry-run                  prints the command
set -euo pipefail
source "$(dirname "$0")/command.sh"

project=${R1JAX_PROJECT:-} zone=${R1JAX_ZONE:-} name=${R1JAX_NAME:-}
OPTIONS="project zone name"
read_options "$@"
need_project
need_names zone name
need_program gcloud "$GCLOUD_FROM"

# --force: without it only a request that was never granted can be deleted.
run gcloud compute tpus queued-resources delete "$name" --project="$project" --zone="$zone" --force --quiet
