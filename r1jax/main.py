"""Runs an experiment config, a stage or a pipeline; run again with the same --workdir, it resumes.

python -m r1jax.main --config=configs/r1_zero_tiny.py --workdir=runs/zero [--config.seed=1 ...]
"""

from __future__ import annotations

from typing import Any

from absl import flags
from ml_collections import config_flags

from r1jax import command, pipeline

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file; any key is set as --config.a.b=v.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, records, report.", required=True)
flags.mark_flag_as_required("config")


def main(_: list[str]) -> dict[str, Any]:
    return pipeline.run(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
    command.main(main)
