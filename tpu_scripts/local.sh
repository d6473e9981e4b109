#!/usr/bin/env bash
# Runs a config as N processes on this machine's CPU, which exchange what they compute as the hosts of a pod do.
#
#   tpu_scripts/local.sh [options] N --config=configs/NAME.py --workdir=DIR [FLAGS]
#
#   N            processes
#   --devices=M  simulated devices of each process; 1
#   --port=P     where the first process is found by the others; one that is free
#   --dry-run    prints the commands
#   FLAGS        further flags of python -m r1jax.main, such as --config.seed=1
#
# Options come before N. stdout is the first process's; what the others have to say is marked with their numbers. SIGINT
# and SIGTERM go to all of them. The interpreter is .venv/bin/python where there is one, or what PYTHON names.
# Exit code: 0, or that of the first process, by number, that failed.
set -euo pipefail
source "$(dirname "$0")/command.sh"

dry_run="" devices=1 port=""
while (($#)); do
  case $1 in
    -h | --help)
      help
      exit 0
      ;;
    --dry-run) dry_run=1 ;;
    --devices=*) devices=${1#*=} ;;
    --port=*) port=${1#*=} ;;
    -*) refuse "unknown option ${1@Q}; expected --devices=M, --port=P or --dry-run, then N; FLAGS come after N" ;;
    *) break ;;
  esac
  shift
done
processes=${1:-}
[[ $processes =~ ^[1-9][0-9]{0,3}$ ]] || refuse "N is ${processes@Q}; expected a number of processes before the flags"
need_counts devices
shift
if (($# == 0)); then refuse "no --config; after N come the flags of python -m r1jax.main"; fi
python=${PYTHON:-}
if [[ -z $python && -x .venv/bin/python ]]; then python=.venv/bin/python; fi
python=${python:-python3}
if [[ -z $port ]]; then
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
fi
need_counts port

flags="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices"
# words_of I FLAGS...: puts the words that start process I in COMMAND.
words_of() {
  COMMAND=(env JAX_PLATFORMS=cpu "XLA_FLAGS=$flags" "$python" -m r1jax.main "${@:2}"
    "--coordinator=127.0.0.1:$port" "--processes=$processes" "--process=$1")
}

if [[ -n $dry_run ]]; then
  for ((i = 0; i < processes; i++)); do
    words_of "$i" "$@"
    run "${COMMAND[@]}"
  done
  exit 0
fi

pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < processes; i++)); do
  words_of "$i" "$@"
  if ((i == 0)); then "${COMMAND[@]}" & else "${COMMAND[@]}" 2> >(sed -u "s/^/[process $i] /" >&2) & fi
  pids+=($!)
done

code=0
for ((i = 0; i < processes; i++)); do
  ended=0
  # A signal that was passed on interrupts the wait: wait again.
  until wait "${pids[i]}" && ended=0 || { ended=$? && ! kill -0 "${pids[i]}" 2>/dev/null; }; do :; done
  if ((ended)); then echo "process $i of $processes ended with exit code $ended" >&2; fi
  if ((code == 0)); then code=$ended; fi
done
exit "$code"
