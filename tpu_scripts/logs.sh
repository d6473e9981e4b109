#!/usr/bin/env bash
# Streams a run's output from one worker until the run ends; Ctrl-C ends the stream, not the run.
#
#   tpu_scripts/logs.sh --project=P --zone=Z --name=N [--node=0] [--worker=0] [--lines=100] [--dry-run]
#
#   --project, --zone, --name  or R1JAX_PROJECT, R1JAX_ZONE, R1JAX_NAME
#   --node=I, --worker=I       which slice and which of its hosts; progress and metrics are the first's, 0 and 0
#   --lines=N                  of what is there already
#   --dry-run                  prints the command
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/command.sh"
source "$here/workers.sh"

project=${R1JAX_PROJECT:-} zone=${R1JAX_ZONE:-} name=${R1JAX_NAME:-}
node=0 worker=0 lines=100
OPTIONS="project zone name node worker lines"
read_options "$@"
need_project
need_names zone name
[[ $node =~ ^[0-9]+$ && $worker =~ ^[0-9]+$ ]] || refuse "--node is ${node@Q} and --worker ${worker@Q}; expected numbers from 0"
need_counts lines
need_program gcloud "$GCLOUD_FROM"

on_workers "$node" "$worker" "$WORKER" log "$name" "$lines"
