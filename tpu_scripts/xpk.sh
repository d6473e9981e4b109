#!/usr/bin/env bash
# Starts a config on TPU slices of a GKE cluster that XPK made (https://github.com/AI-Hypercomputer/xpk).
#
#   tpu_scripts/xpk.sh --project=P --zone=Z --cluster=C --name=N --type=v5p-2048 --image=IMAGE --storage=S \
#     --config=configs/NAME.py --workdir=bucket/runs/NAME [-- FLAGS]
#
#   --project, --zone, --name  or R1JAX_PROJECT, R1JAX_ZONE, R1JAX_NAME
#   --cluster=NAME     made by: xpk cluster create --cluster=C --tpu-type=T --num-slices=N --project=P --zone=Z
#   --type=TYPE        accelerator type, as of create.sh
#   --image=IMAGE      built from tpu_scripts/Dockerfile and pushed to a registry that the cluster reads
#   --storage=NAME     a bucket that `xpk storage attach` gave the cluster, with the mount point /r1jax/bucket
#   --slices=N         1
#   --restarts=N       before the workload fails; 10
#   -- FLAGS           further flags of python -m r1jax.main, such as --config.seed=1
#   --dry-run          prints the command
#
#   logs and state:  xpk workload list --cluster=C, which gives the link to the logs
#   stop:            xpk workload delete --workload=N --cluster=C
set -euo pipefail
source "$(dirname "$0")/command.sh"

project=${R1JAX_PROJECT:-} zone=${R1JAX_ZONE:-} name=${R1JAX_NAME:-}
cluster="" type="" image="" storage="" slices=1 restarts=10 config="" workdir=""
OPTIONS="project zone name cluster type image storage slices restarts config workdir"
read_options "$@"
need_project
need_names zone name cluster type storage
need_counts slices restarts
need image config workdir
[[ ${#name} -le 40 ]] || refuse "--name is ${name@Q}, of ${#name} characters; XPK takes 40 at most"
need_program xpk "install it from https://github.com/AI-Hypercomputer/xpk"

command=$(quoted python -m r1jax.main --config="$config" --workdir="$workdir" "${REST[@]}")
run xpk workload create --project="$project" --zone="$zone" --cluster="$cluster" --workload="$name" --tpu-type="$type" \
  --num-slices="$slices" --docker-image="$image" --storage="$storage" --max-restarts="$restarts" \
  --restart-on-user-code-failure --termination-grace-period-seconds=600 --command="$command"
