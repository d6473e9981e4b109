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
from r1jax.data.tokenizer import StreamDecoder
from r1jax.stages.inference import seeds

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A stage's workdir or a converted checkpoint.", required=True)
_PROMPT = flags.DEFINE_string("prompt", None, "A question, put into the checkpoint's own template. None: chat.")
_SAMPLES = flags.DEFINE_integer("samples", 1, "Completions.", lower_bound=1)
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "0 is greedy.", lower_bound=0)
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", None, "Of a completion; the checkpoint's if not given.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of sampling.", lower_bound=0)

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
THINK, END_THINK = "<think>", "</think>"


def main(_: list[str]) -> dict[str, Any]:
    policy = r1jax.load(_CHECKPOINT.value)
    return _once(policy, _PROMPT.value) if _PROMPT.value is not None else _chat(policy)


def _once(policy: r1jax.Policy, question: str) -> dict[str, Any]:
    completions = policy.generate(
        [templates.render(policy.stage.template, question, policy.tokenizer)],
        samples=_SAMPLES.value,
        temperature=_TEMPERATURE.value,
        max_tokens=_max_tokens(policy),
        seed=_SEED.value,
    )[0]
    for completion in completions:
        before, mark, after = printable(completion.text.strip()).partition(END_THINK)
        _show(f"{question}\n{_dim(before + mark) if mark else before}{after}\n\n")
    return {
        "prompt": question,
        "completions": [
            {"text": c.text, "finish_reason": c.finish_reason, "tokens": len(c.tokens)} for c in completions
        ],
    }


def _chat(policy: r1jax.Policy) -> dict[str, Any]:
    """Each line is a question of its own, as the policy was trained. An empty line ends."""
    turns = 0
    while True:
        _show("> ")
        question = sys.stdin.readline().strip()
        if not question:
            return {"turns": turns}
        try:
            _answer(policy, question, _SEED.value + turns)
        except ValueError as error:  # a question that is too long, or no Unicode; the next may be better
            _show(f"error: {error}\n")
        turns += 1


def _answer(policy: r1jax.Policy, question: str, seed: int) -> None:
    """Writes the completion as it is sampled, what stands between the think tags dimmed."""
    tokenizer = policy.tokenizer
    decoder = StreamDecoder(tokenizer)
    said = templates.render(policy.stage.template, question, tokenizer)
    tokens = policy.engine.stream(
        policy.params,
        tokenizer.encode_prompt(said),
        seeds(seed, 1)[0],
        temperature=_TEMPERATURE.value,
        top_k=0,
        top_p=1.0,
        max_tokens=_max_tokens(policy),
    )
    said = said[len(said.rstrip().removesuffix(THINK)) :]  # a chat template may open the thought
    for token in tokens:
        thinking = said.rfind(THINK) > said.rfind(END_THINK)
        text = decoder.push(token)
        said += text
        thinking = thinking or said.rfind(THINK) > said.rfind(END_THINK)
        _show(_dim(printable(text)) if thinking else printable(text))
    _show(printable(decoder.flush()) + "\n")


def _max_tokens(policy: r1jax.Policy) -> int:
    return _MAX_TOKENS.value or policy.stage.evaluation.max_tokens


def printable(text: str) -> str:
    """`text` without the control characters that a model may write and a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def _dim(text: str) -> str:
    return f"{DIM}{text}{PLAIN}" if text and sys.stderr.isatty() else text


def _show(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    command.main(main)
