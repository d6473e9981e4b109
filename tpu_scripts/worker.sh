#!/usr/bin/env bash
# What is done on each worker of a slice; the other scripts call it there. It needs nothing but bash and Python 3.
#
#   worker.sh install [BUCKET]   r1jax with its TPU extra into ~/r1jax-venv; mounts gs://BUCKET at ~/r1jax/bucket
#   worker.sh start NAME ARGS    python -m r1jax.main ARGS in the background, in ~/r1jax; its output goes to ~/runs/NAME.log
#   worker.sh state NAME         says: running, finished (its workdir holds a result), exited CODE, or none
#   worker.sh log NAME LINES     the last lines of the output, then those to come until the run has ended
#   worker.sh stop NAME SECONDS  asks the run to save and end (SIGTERM), waits so long for it, then kills it
set -euo pipefail

readonly CODE="$HOME/r1jax" VENV="${R1JAX_VENV:-$HOME/r1jax-venv}" RUNS="$HOME/runs"

install() {
  local bucket=${1:-}
  python3 -m pip install --quiet --user --upgrade uv
  [[ -x $VENV/bin/python ]] || python3 -m uv venv --quiet --python 3.12 "$VENV"
  python3 -m uv pip install --quiet --python "$VENV/bin/python" -e "${CODE}[tpu,hf]"
  cd "$CODE"
  "$VENV/bin/python" -c 'import jax, r1jax; print(f"jax {jax.__version__}")'
  if [[ -n $bucket ]]; then mount_bucket "$bucket"; fi
}

# Source: https://cloud.google.com/storage/docs/cloud-storage-fuse/install
mount_bucket() {
  local key=/usr/share/keyrings/cloud.google.asc packages=https://packages.cloud.google.com/apt
  if ! command -v gcsfuse >/dev/null; then
    curl -fsS "$packages/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] $packages gcsfuse-$(lsb_release -c -s) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list
    sudo apt-get update --quiet
    sudo apt-get install --quiet --yes gcsfuse
  fi
  mkdir -p "$CODE/bucket"
  mountpoint --quiet "$CODE/bucket" || gcsfuse --implicit-dirs "$1" "$CODE/bucket"
}

# A process id is taken again after a reboot, so the file alone proves nothing.
alive() {
  local pid
  pid=$(cat "$RUNS/$1.pid" 2>/dev/null) && grep -qz '^r1jax.main$' "/proc/$pid/cmdline" 2>/dev/null
}

start() {
  local name=$1
  if alive "$name"; then
    echo "error: $name runs already, as process $(cat "$RUNS/$name.pid"); stop it first" >&2
    exit 2
  fi
  [[ -x $VENV/bin/python ]] || { echo "error: no $VENV/bin/python; run setup.sh first" >&2 && exit 2; }
  mkdir -p "$RUNS"
  rm -f "$RUNS/$name.pid" "$RUNS/$name.exit"
  workdir_of "${@:2}" >"$RUNS/$name.workdir"
  setsid nohup "$0" run "$@" >>"$RUNS/$name.log" 2>&1 </dev/null &
  echo "$(hostname): $name started"
}

workdir_of() {
  local word
  for word in "$@"; do
    if [[ $word == --workdir=* ]]; then echo "${word#--workdir=}"; fi
  done
}

# Outlives a SIGTERM to the whole session, as on shutdown, so that the run's own exit code is what is written down.
run() {
  local name=$1 child code
  trap : TERM
  cd "$CODE"
  "$VENV/bin/python" -m r1jax.main "${@:2}" &
  child=$!
  echo "$child" >"$RUNS/$name.pid"
  while true; do
    code=0
    wait "$child" || code=$?
    kill -0 "$child" 2>/dev/null || break
  done
  echo "$code" >"$RUNS/$name.exit"
}

state() {
  local code workdir
  if alive "$1"; then
    echo running
  elif [[ ! -e $RUNS/$1.exit ]]; then
    echo none
  else
    code=$(cat "$RUNS/$1.exit")
    workdir=$(cat "$RUNS/$1.workdir")
    if [[ $code == 0 ]] && (cd "$CODE" && [[ -e $workdir/result.json ]]); then echo finished; else echo "exited $code"; fi
  fi
}

log() {
  local pid
  pid=$(cat "$RUNS/$1.pid" 2>/dev/null || true)
  if alive "$1"; then tail -n "$2" --pid="$pid" -F "$RUNS/$1.log"; else tail -n "$2" "$RUNS/$1.log"; fi
}

stop() {
  local deadline=$((SECONDS + $2))
  if ! alive "$1"; then
    echo "$(hostname): $1 does not run"
    return
  fi
  kill -TERM "$(cat "$RUNS/$1.pid")"
  while alive "$1" && ((SECONDS < deadline)); do sleep 1; done
  if alive "$1"; then
    kill -KILL "$(cat "$RUNS/$1.pid")"
    echo "$(hostname): $1 did not end within $2 s and was killed; its last whole checkpoint stands"
  else
    echo "$(hostname): $1 has ended"
  fi
}

case ${1:-} in
  install | start | run | state | log | stop) "$@" ;;
  *) awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0" ;;
esac
