# shellcheck shell=bash
# Reaching the workers of a slice, or of several; sourced after command.sh and read_options.
# shellcheck disable=SC2034,SC2154 # WORKER is read by the scripts; project, zone and name are set by their options

readonly WORKER='r1jax/tpu_scripts/worker.sh'

# on_workers NODE WORKER WORDS...: runs the words there; `all` is every one of them. The remote shell gets them quoted.
on_workers() {
  run gcloud compute tpus queued-resources ssh "$name" --project="$project" --zone="$zone" --node="$1" --worker="$2" \
    --command="$(quoted "${@:3}")"
}

# to_workers FILE DESTINATION: copies a file into the home folder of every worker.
to_workers() {
  run gcloud compute tpus queued-resources scp "$1" "$name:$2" --project="$project" --zone="$zone" --node=all --worker=all
}
