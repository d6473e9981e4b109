"""Runs an experiment config, a stage, a pipeline or a sweep; run again with the same --workdir, it resumes.

python -m r1jax.main --config=configs/r1_zero_tiny.py --workdir=runs/zero [--config.seed=1 ...]

On a TPU pod, in a Slurm step or in a JobSet the same command runs on every host, and the processes find each other.
Elsewhere they are told: --coordinator=HOST:PORT --processes=N --process=I. The workdir is a folder that all see.
"""

from __future__ import annotations

import os
from typing import Any

from absl import flags
from ml_collections import config_flags

from r1jax import command, pipeline, processes, sweep

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file; any key is set as --config.a.b=v.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Of several processes: HOST:PORT of the first.")
_PROCESSES = flags.DEFINE_integer("processes", None, "Of several processes: how many there are.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "Of several processes: which this is, from 0.", lower_bound=0)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, records, report.", required=True)
flags.mark_flag_as_required("config")


def main(_: list[str]) -> dict[str, Any]:
    processes.start(processes.position(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, os.environ))
    processes.heed_notices()
    room = sweep if _CONFIG.value.get("stage") == "sweep" else pipeline
    return room.run(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
    command.main(main)
