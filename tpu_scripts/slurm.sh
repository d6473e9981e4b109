#!/usr/bin/env bash
# Submits a config to a Slurm cluster of GPUs: a process a GPU, which find each other through Slurm's variables.
#
#   tpu_scripts/slurm.sh --name=N --partition=P --nodes=16 --gpus=8 --time=24:00:00 \
#     --config=configs/NAME.py --workdir=/shared/runs/NAME [options] [-- FLAGS]
#
#   --name=NAME         of the job, or R1JAX_NAME
#   --partition=NAME, --account=NAME, --qos=NAME  as the cluster wants them; the first is needed
#   --nodes=N, --gpus=N how many, and GPUs of each; gpus is 8
#   --cpus=N            CPUs of each process; 8
#   --time=LIMIT        after which the job saves and is queued again
#   --notice=SECONDS    before the limit, at which it is told to save; 600
#   --python=FILE       of the environment with r1jax[gpu], on storage that all nodes see; .venv/bin/python
#   --workdir=DIR       on storage that all nodes see
#   -- FLAGS            further flags of python -m r1jax.main, such as --config.seed=1
#   --dry-run           prints the command
#
#   state: squeue --name=N    logs: tail -F N.log    stop for good: scancel --name=N
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/command.sh"

name=${R1JAX_NAME:-}
partition="" account="" qos="" nodes="" gpus=8 cpus=8 time="" notice=600 python=.venv/bin/python config="" workdir=""
OPTIONS="name partition account qos nodes gpus cpus time notice python config workdir"
read_options "$@"
need name partition nodes time config workdir
[[ $name =~ ^[A-Za-z0-9][-_.A-Za-z0-9]{0,62}$ ]] || refuse "--name is ${name@Q}; expected letters, digits, hyphens, dots and underscores"
[[ $time =~ ^[0-9]+(-[0-9]+)?(:[0-9]+){0,2}$ ]] || refuse "--time is ${time@Q}; expected such as 24:00:00 or 2-00:00:00"
need_counts nodes gpus cpus notice
need_program sbatch "run this on a login node of the cluster"

options=()
if [[ -n $account ]]; then options+=(--account="$account"); fi
if [[ -n $qos ]]; then options+=(--qos="$qos"); fi
run sbatch --job-name="$name" --partition="$partition" "${options[@]}" --nodes="$nodes" --ntasks-per-node="$gpus" \
  --gpus-per-node="$gpus" --cpus-per-task="$cpus" --exclusive --time="$time" --requeue --open-mode=append \
  --output="$name.log" --signal="B:USR1@$notice" "$here/slurm_job.sh" \
  "$python" -m r1jax.main --config="$config" --workdir="$workdir" "${REST[@]}"
