"""Cold-start data: long chains of thought collected in several ways, all brought into R1's readable form.

The ways are the config's: worked examples before the question, a wish to reflect and verify, or R1-Zero's template
and the checkpoint that was trained in it. What comes is rewritten by rules, its thought by a model where one is
given; then it is graded and filtered as in rejection sampling. SFT on the result is the ordinary `sft` stage.

Source: DeepSeek-R1 (arXiv 2501.12948), section 2.3.1. People who refine the data have no part here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.config import ColdStartStage, WayConfig
from r1jax.data import templates
from r1jax.data.tokenizer import Tokenizer
from r1jax.rewards.judge import Generate
from r1jax.stages import graders
from r1jax.stages.candidates import Way
from r1jax.stages.collection import NO_JOIN, Inputs, collect, open_inputs
from r1jax.stages.inference import read_writer
from r1jax.stages.rewriting import Readable, rewrite
from r1jax.stages.run import NO_FOLDERS
from r1jax.stages.workdir import finished

NO_TEMPLATE = "plain"  # a prompt that is written out stops where the text ends


def run(config: ColdStartStage, workdir: str, folders: Mapping[str, str] = NO_FOLDERS) -> dict[str, Any]:
    """As `rejection.run`."""
    result = finished(workdir, config)
    if result is not None:
        return result
    inputs = open_inputs(config, NO_JOIN, graders.makers(folders), folders, awaited=False)
    try:
        _check_languages(config, inputs)
        model = config.rewriter.model
        generate = graders.makers(folders)["generate"]({"judge": model}) if model else None
        finish = functools.partial(_finish, config, generate)
        ways = [
            Way(
                name, folders.get(way.init_from, way.init_from), way.weight, way.template or NO_TEMPLATE,
                functools.partial(prompt, way), way.stop, finish,
            )
            for name, way in config.ways.items()
        ]  # fmt: skip
        return collect(config, NO_JOIN, ways, inputs, workdir)
    finally:
        inputs.rewards.close()


def check(config: ColdStartStage, folders: Mapping[str, str] = NO_FOLDERS) -> None:
    """Refuses what can be told wrong before earlier stages have run. Reads data; compiles nothing."""
    templates.check(config.template)
    for way in config.ways.values():
        if way.template:
            templates.check(way.template)
        if way.init_from not in folders:
            read_writer(way.init_from)
    if config.rewriter.model:
        graders.checkers(folders)["generate"]({"judge": config.rewriter.model})
    inputs = open_inputs(config, NO_JOIN, graders.checkers(folders), folders, awaited=True)
    inputs.rewards.close()
    _check_languages(config, inputs)


def prompt(way: WayConfig, question: str, tokenizer: Tokenizer) -> str:
    if way.template:
        return templates.render(way.template, question, tokenizer)
    return way.prompt.replace("{question}", question)


def _finish(
    config: ColdStartStage,
    generate: Generate | None,
    completions: Sequence[str],
    records: Sequence[dict[str, str]],
    seeds: Sequence[int],
) -> list[Readable]:
    questions, languages = ([record[field] for record in records] for field in ("question", "language"))
    return rewrite(completions, questions, languages, seeds, config.summaries, config.rewriter, generate)


def _check_languages(config: ColdStartStage, inputs: Inputs) -> None:
    for name, source in inputs.sources.items():
        unknown = {source[i]["language"] for i in range(len(source))} - config.summaries.keys()
        if unknown:
            raise ValueError(
                f"data.sources.{name} has records in {', '.join(sorted(unknown))}; config.summaries has "
                f"{', '.join(config.summaries) or 'none'}: add a summary for each language"
            )
