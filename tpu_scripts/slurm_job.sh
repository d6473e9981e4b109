#!/usr/bin/env bash
# The batch script that slurm.sh submits; its words are the command of each task.
#
# Slurm sends USR1 here some time before the limit: the tasks are then told to save and end, and the job is queued again,
# to go on from its checkpoint. On preemption Slurm itself sends TERM to the tasks, and queues the job again.
set -euo pipefail

again=""
trap 'again=1; kill -TERM "$step"' USR1

# TERM to srun reaches every task. --kill-on-bad-exit: where one task has died the others would wait for it.
srun --kill-on-bad-exit=1 "$@" &
step=$!
code=0
# A signal ends `wait`, not the step.
while true; do
  code=0
  wait "$step" || code=$?
  kill -0 "$step" 2>/dev/null || break
done
if [[ -n $again ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
