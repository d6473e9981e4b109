# shellcheck shell=bash
# What every script here shares, sourced by each: its options, its help, its refusals, and running a command or, under
# --dry-run, printing it.
#
# A script's help is the comment at its head. Its options are the variables it names in OPTIONS (--node-count is
# node_count) and switches in SWITCHES; what follows `--` is left in REST.
# Exit codes: 0 done, 2 bad input, else the code of the command that failed.
set -euo pipefail

readonly NAME_RULE='a lower-case letter, then lower-case letters, digits and hyphens, 63 at most'

if ((BASH_VERSINFO[0] < 4 || (BASH_VERSINFO[0] == 4 && BASH_VERSINFO[1] < 4))); then
  echo "error: bash $BASH_VERSION is too old; expected 4.4 or newer (macOS: brew install bash)" >&2
  exit 2
fi

refuse() {
  echo "error: $*" >&2
  exit 2
}

help() {
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
}

# read_options ARGS...: sets the variables that OPTIONS and SWITCHES name.
read_options() {
  REST=()
  dry_run=""
  local word key
  while (($#)); do
    word=$1
    shift
    case $word in
      -h | --help)
        help
        exit 0
        ;;
      --dry-run) dry_run=1 ;;
      --)
        REST=("$@")
        return
        ;;
      --?*)
        key=${word%%=*}
        key=${key#--}
        if listed "$key" "${SWITCHES:-}" && [[ $word != *=* ]]; then
          printf -v "${key//-/_}" 1
        elif ! listed "$key" "$OPTIONS"; then
          refuse "unknown option ${word@Q}; expected one of --${OPTIONS// / --}${SWITCHES:+ --${SWITCHES// / --}} --dry-run"
        elif [[ $word == *=* ]]; then
          printf -v "${key//-/_}" %s "${word#*=}"
        elif (($#)); then
          printf -v "${key//-/_}" %s "$1"
          shift
        else
          refuse "--$key has no value; write --$key=VALUE"
        fi
        ;;
      *) refuse "unexpected word ${word@Q}; options are written --NAME=VALUE, and --help lists them" ;;
    esac
  done
}

listed() { [[ " $2 " == *" $1 "* ]]; }

# need OPTION...: refuses what is unset or empty.
need() {
  local option variable
  for option in "$@"; do
    variable=${option//-/_}
    if [[ -z ${!variable:-} ]]; then
      case $option in
        project | zone | name) refuse "no $option; give --$option=VALUE or set R1JAX_${option^^}" ;;
        *) refuse "no $option; give --$option=VALUE" ;;
      esac
    fi
  done
}

# need_names OPTION...: refuses what is unset, or no name of a cloud resource.
need_names() {
  need "$@"
  local option variable
  for option in "$@"; do
    variable=${option//-/_}
    [[ ${!variable} =~ ^[a-z][-a-z0-9]{0,62}$ ]] || refuse "--$option is ${!variable@Q}; expected $NAME_RULE"
  done
}

# need_project: a project's id, which may have an organisation's domain before it.
need_project() {
  need project
  # shellcheck disable=SC2154 # set by the script's options
  [[ $project =~ ^([a-z][-a-z0-9.]*:)?[a-z][-a-z0-9]{0,62}$ ]] ||
    refuse "--project is ${project@Q}; expected a project's id: $NAME_RULE"
}

# need_counts OPTION...: refuses what is no positive whole number.
need_counts() {
  need "$@"
  local option variable
  for option in "$@"; do
    variable=${option//-/_}
    [[ ${!variable} =~ ^[1-9][0-9]{0,5}$ ]] || refuse "--$option is ${!variable@Q}; expected a positive whole number"
  done
}

# need_program PROGRAM WHERE: refuses to go on without it; a dry run has no need of it.
need_program() {
  [[ -n $dry_run ]] || command -v "$1" >/dev/null || refuse "no $1 on PATH; $2"
}

# shellcheck disable=SC2034 # read by the scripts
readonly GCLOUD_FROM="install it from https://cloud.google.com/sdk/docs/install, then: gcloud auth login"

# quoted WORDS...: as a shell would have to be given them. Plain words stay as they are.
quoted() {
  local word out=()
  for word in "$@"; do
    if [[ $word =~ ^[-A-Za-z0-9_./:=,@%+]+$ ]]; then out+=("$word"); else out+=("${word@Q}"); fi
  done
  echo "${out[*]}"
}

# run WORDS...: runs the command, or prints it so that a shell would run the same.
run() {
  if [[ -n $dry_run ]]; then quoted "$@"; else "$@"; fi
}

# note TEXT: what a dry run has to say of what follows; what a real one says while it waits.
note() {
  if [[ -n $dry_run ]]; then echo "# $*"; else echo "$*" >&2; fi
}
