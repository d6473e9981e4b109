"""Rejection sampling: a checkpoint's own samples, those that are right and fit to be learnt from.

Source: DeepSeek-R1 (arXiv 2501.12948), section 2.3.3: samples of the checkpoint of reasoning RL, verified by rules
and by a judge; mixed languages, long paragraphs and code blocks are dropped; joined with data of other kinds.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from r1jax.config import RejectionStage
from r1jax.data import templates
from r1jax.stages import graders
from r1jax.stages.candidates import Way
from r1jax.stages.collection import collect, open_inputs
from r1jax.stages.inference import read_writer
from r1jax.stages.run import NO_FOLDERS
from r1jax.stages.workdir import finished


def run(config: RejectionStage, workdir: str, folders: Mapping[str, str] = NO_FOLDERS) -> dict[str, Any]:
    """Makes the dataset in `workdir`, or what is left of it to make.

    Args:
      folders: of a pipeline's stages, by the names that a config may give in a folder's place.

    Returns:
      the counts of samples by source, {NAME: {"n", "kept", "dropped/FILTER", ...}}.
    """
    result = finished(workdir, config)
    if result is not None:
        return result
    folder = folders.get(config.init_from, config.init_from)
    inputs = open_inputs(config, config.join, graders.makers(folders), folders, awaited=False)
    try:
        prompt = functools.partial(templates.render, config.template)
        way = Way("sampled", folder, 1.0, config.template, prompt, "", None)
        return collect(config, config.join, [way], inputs, workdir)
    finally:
        inputs.rewards.close()


def check(config: RejectionStage, folders: Mapping[str, str] = NO_FOLDERS) -> None:
    """Refuses what can be told wrong before earlier stages have run. Reads data; compiles nothing."""
    templates.check(config.template)
    if config.init_from not in folders:
        read_writer(config.init_from)
    open_inputs(config, config.join, graders.checkers(folders), folders, awaited=True).rewards.close()
