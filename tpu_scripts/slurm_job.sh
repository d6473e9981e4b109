#!/usr/bin/env bash
# The batch script that slurm.sh submits; its words are the command of each task.
#
# Slurm sends USR1 here some time before the limit: the tasks are then told to save and end, and the job is queued again,
# to go on from its checkpoint. On preemption Slurm itself sends TERM to the tasks, and queues the job again.
set -euo pipefail

signals=0
trap 'signals=$((signals + 1)); kill -TERM "$step" 2>/dev/null || true' USR1

# TERM to srun reaches every task. --kill-on-bad-exit: where one task has died the others would wait for it.
srun --kill-on-bad-exit=1 "$@" &
step=$!
code=0
before=-1
# A signal ends `wait`, not the step: its own code is that of a wait during which none came.
while ((before != signals)); do
  before=$signals
  found=0
  wait "$step" 2>/dev/null || found=$?
  ((found == 127)) || code=$found # 127: the step had ended, and its code is known
done
if ((signals)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
