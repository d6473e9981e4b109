"""The job that r1jax and TRL are both given: GRPO on arithmetic, from one trained policy. Imports no framework.

Eight prompts a step with sixteen samples each, in an order that is fixed; one update a step; advantages are not scaled,
as the two scale by different deviations; a sequence's loss is the mean over its own tokens, a batch's the mean over
sequences. Lengths are as the policy ends its texts.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PROMPTS, SAMPLES = 8, 16  # of a step
MAX_TOKENS = 128  # of a completion; the policy ends nearly all before
TEMPERATURE = 1.0
LEARNING_RATE = 3e-4  # constant
BETA1, BETA2, EPS, WEIGHT_DECAY, CLIP_NORM = 0.9, 0.999, 1e-8, 0.0, 1.0
CLIP = 0.2  # of the ratio, which is 1 with one update a step
KL_COEF = 0.01  # to the policy that the job starts from, estimator k3
STEPS = 20
SEEDS = (0, 1, 2)

PROMPTS_FILE, BATCH_FILE, POLICY_FOLDER = "prompts.jsonl", "batch.npz", "hf"  # in the job's folder
_FORM = re.compile(r"\s*<think>.*?</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)


def reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """0.1 for a thought and an answer in their tags, and 1 more where that is the right integer."""
    return [_score(text, gold) for text, gold in zip(completions, answer, strict=True)]


def _score(text: str, gold: str) -> float:
    match = _FORM.fullmatch(text)
    if not match:
        return 0.0
    said = match[1].strip()
    return 0.1 + float(bool(re.fullmatch(r"-?\d{1,9}", said)) and int(said) == int(gold))


def prompts(folder: str | Path) -> list[dict[str, Any]]:
    """The prompts in their order: {"question", "prompt", "ids", "answer"}."""
    lines = (Path(folder) / PROMPTS_FILE).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def of_step(rows: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """Those of a step, counted from 0."""
    return rows[step * PROMPTS : (step + 1) * PROMPTS]
