"""Thinking under a budget: a thought that is too long is cut and an answer asked for; one that ends early is prolonged.

Source: budget forcing of s1 (arXiv 2501.19393, section 3.1). The words put in the policy's mouth are below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from r1jax.data.tokenizer import Tokenizer

END = b"</think>"
ASK = {"r1_zero": " </think> <answer>", "r1": " </think>", "chat": "\n</think>\n\n"}  # ends a thought, by template
WAIT = " Wait,"  # in place of the end of a thought: think on

# Continues each of some texts, prompt included, by at most so many tokens.
Continue = Callable[[list[list[int]], int], list[list[int]]]


class Budgets(NamedTuple):
    """At what budgets of thinking a policy is evaluated."""

    thinking: tuple[int, ...]  # tokens of a completion by the end of its thought
    answer_tokens: int  # of the answer that is asked for
    extensions: int  # how often a thought that ends within the budget is told to go on; 0: it may end


def check_budgets(budgets: Budgets, template: str, tokenizer: Tokenizer, max_tokens: int) -> None:
    """Refuses budgets that cannot be kept.

    Raises:
      ValueError: names the budget or option, and the remedy.
    """
    if template not in ASK:
        raise ValueError(
            f"template is {template!r}, which knows no thought to cut; budgets need one of {', '.join(ASK)}"
        )
    if min(budgets.thinking, default=0) < 1:
        raise ValueError(f"budgets is {list(budgets.thinking)}; expected numbers of tokens, 1 or more")
    needed = max(budgets.thinking) + len(tokenizer.encode(ASK[template])) + budgets.answer_tokens
    if needed > max_tokens:
        raise ValueError(
            f"a budget of {max(budgets.thinking)} tokens takes {needed} with its answer; max_tokens is {max_tokens}: "
            "raise it, or lower the budget"
        )


def keep_to(
    budget: int,
    budgets: Budgets,
    go_on: Continue,
    tokenizer: Tokenizer,
    template: str,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
) -> tuple[list[list[int]], np.ndarray]:
    """Completions whose thoughts end within `budget` tokens.

    One that does so of itself stays as it is; of another the first `budget` tokens stay, and the answer is sampled
    anew. So are the shorter thoughts of all budgets the beginnings of the longer ones.

    Args:
      prompts, completions: B of each; a completion has more than `budget` tokens, or has ended.

    Returns:
      (completions, forced_B: whether the thought was cut).
    """
    done = [list(ids) for ids in completions]
    wait = tokenizer.encode(WAIT)
    for _ in range(budgets.extensions):
        early = []
        for b, ids in enumerate(done):
            span = thought(tokenizer, ids)
            if span is not None and span[0] + len(wait) < budget:
                done[b] = ids[: span[0]] + wait
                early.append(b)
        room = max((budget - len(done[b]) for b in early), default=0) + budgets.answer_tokens
        _continue(go_on, prompts, done, early, room)
    cut = [b for b, ids in enumerate(done) if (thought(tokenizer, ids) or (0, len(ids)))[1] > budget]
    for b in cut:
        done[b] = done[b][:budget] + tokenizer.encode(ASK[template])
    _continue(go_on, prompts, done, cut, budgets.answer_tokens)
    return done, np.isin(np.arange(len(done)), cut)


def thought(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[int, int] | None:
    """(tokens before the end of a completion's thought, tokens by the end's own end); None where it does not end."""
    pieces = [tokenizer.token_bytes(int(token)) for token in ids]
    at = b"".join(pieces).find(END)
    if at < 0:
        return None
    ends = np.cumsum([len(piece) for piece in pieces])
    return int(np.searchsorted(ends, at, "right")), int(np.searchsorted(ends, at + len(END))) + 1


def _continue(
    go_on: Continue, prompts: Sequence[Sequence[int]], done: list[list[int]], those: list[int], room: int
) -> None:
    """Continues `those` texts in place."""
    if those:
        tails = go_on([[*prompts[b], *done[b]] for b in those], room)
        for b, tail in zip(those, tails, strict=True):
            done[b] = done[b] + tail
