#!/usr/bin/env bash
# Copies this repository, as committed, to every worker of a slice and installs it there. Run it again after a change.
#
#   tpu_scripts/setup.sh --project=P --zone=Z --name=N [--ref=COMMIT] [--bucket=BUCKET] [--dry-run]
#
#   --project, --zone, --name  or R1JAX_PROJECT, R1JAX_ZONE, R1JAX_NAME
#   --ref=COMMIT     what to copy; HEAD
#   --bucket=BUCKET  Cloud Storage bucket, mounted at ~/r1jax/bucket on every worker: a workdir under bucket/ outlives
#                    the slice and is seen by all its hosts
#   --dry-run        prints the commands
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/command.sh"
source "$here/workers.sh"

project=${R1JAX_PROJECT:-} zone=${R1JAX_ZONE:-} name=${R1JAX_NAME:-}
ref=HEAD bucket=""
OPTIONS="project zone name ref bucket"
read_options "$@"
need_project
need_names zone name
need ref
[[ -z $bucket || $bucket =~ ^[a-z0-9][-_.a-z0-9]{1,221}$ ]] || refuse "--bucket is ${bucket@Q}; expected a bucket's name, without gs://"
[[ $ref != -* ]] || refuse "--ref is ${ref@Q}; expected a commit, branch or tag"
need_program gcloud "$GCLOUD_FROM"

root=$(dirname "$here")
if [[ -n $dry_run ]]; then archive=r1jax.tar.gz; else archive=$(mktemp -d)/r1jax.tar.gz; fi
if [[ -n $(git -C "$root" status --porcelain --untracked-files=no 2>/dev/null) ]]; then
  note "changes that are not committed stay behind"
fi
run git -C "$root" archive --format=tar.gz --output="$archive" "$ref"
to_workers "$archive" r1jax.tar.gz
# The code of before goes, so that no file outlives its removal; runs/ and the bucket's mount stay.
on_workers all all bash -c 'mkdir -p r1jax && cd r1jax && rm -rf r1jax configs tpu_scripts && tar -xzf ../r1jax.tar.gz'
on_workers all all "$WORKER" install ${bucket:+"$bucket"}
