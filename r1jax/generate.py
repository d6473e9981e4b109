"""Completes a prompt with a checkpoint, or chats where none is given.

    python -m r1jax.generate --checkpoint=runs/zero/zero --prompt='What is 2 + 3 * 4?' --samples=3
"""

from __future__ import annotations

import sys
from typing import Any

from absl import flags

import r1jax
from r1jax import command
from r1jax.data import templates

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A stage's workdir or a converted checkpoint.")
_PROMPT = flags.DEFINE_string("prompt", None, "A question, put into the checkpoint's own template. None: chat.")
_SAMPLES = flags.DEFINE_integer("samples", 1, "Completions.", lower_bound=1)
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "0 is greedy.", lower_bound=0)
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", None, "Of a completion; the checkpoint's own if not given.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of sampling.", lower_bound=0)
flags.mark_flags_as_required(["checkpoint"])

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def main(_: list[str]) -> dict[str, Any]:
    policy = r1jax.load(_CHECKPOINT.value)
    return _once(policy, _PROMPT.value) if _PROMPT.value is not None else _chat(policy)


def _complete(policy: r1jax.Policy, question: str, samples: int, seed: int) -> list[r1jax.Completion]:
    return policy.generate(
        [templates.render(policy.stage.template, question)],
        samples=samples,
        temperature=_TEMPERATURE.value,
        max_tokens=_MAX_TOKENS.value or policy.stage.evaluation.max_tokens,
        seed=seed,
    )[0]


def _once(policy: r1jax.Policy, question: str) -> dict[str, Any]:
    completions = _complete(policy, question, _SAMPLES.value, _SEED.value)
    for completion in completions:
        print(f"{question}\n{_shaded(completion.text)}\n", file=sys.stderr)
    return {
        "prompt": question,
        "completions": [
            {"text": c.text, "finish_reason": c.finish_reason, "tokens": len(c.tokens)} for c in completions
        ],
    }


def _chat(policy: r1jax.Policy) -> dict[str, Any]:
    """Each line is a question of its own, as the policy was trained; the thought is dimmed. An empty line ends."""
    turns = 0
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        question = sys.stdin.readline().strip()
        if not question:
            return {"turns": turns}
        turns += 1
        print(_shaded(_complete(policy, question, 1, _SEED.value + turns)[0].text), file=sys.stderr)


def _shaded(text: str) -> str:
    """The thought dimmed, where stderr is a terminal; control characters a model wrote are not passed on to it."""
    safe = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text).strip()
    if not sys.stderr.isatty():
        return safe
    head, mark, rest = safe.partition("</think>")
    return f"{DIM}{head}{mark}{PLAIN}{rest}" if mark else safe


if __name__ == "__main__":
    command.main(main)
