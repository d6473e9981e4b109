#!/usr/bin/env bash
# Starts a config on every worker of a slice, in the background; the processes find each other. Run again, it resumes.
#
#   tpu_scripts/launch.sh --project=P --zone=Z --name=N --config=configs/NAME.py --workdir=bucket/runs/NAME [-- FLAGS]
#
#   --project, --zone, --name  or R1JAX_PROJECT, R1JAX_ZONE, R1JAX_NAME
#   --config=FILE    as of python -m r1jax.main, relative to the repository
#   --workdir=DIR    relative to the repository on the worker; under bucket/ it outlives the slice
#   -- FLAGS         further flags of python -m r1jax.main, such as --config.seed=1
#   --dry-run        prints the command
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/command.sh"
source "$here/workers.sh"

project=${R1JAX_PROJECT:-} zone=${R1JAX_ZONE:-} name=${R1JAX_NAME:-}
config="" workdir=""
OPTIONS="project zone name config workdir"
read_options "$@"
need_project
need_names zone name
need config workdir
need_program gcloud "$GCLOUD_FROM"

on_workers all all "$WORKER" start "$name" --config="$config" --workdir="$workdir" "${REST[@]}"
