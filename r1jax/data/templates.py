"""How a question becomes the text a model is prompted with."""

from __future__ import annotations

import difflib

# The R1-Zero template, to the letter (DeepSeek-R1, table 1).
_R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
    "answer. The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> "
    "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
    "User: {prompt}. Assistant:"
)

TEMPLATES: dict[str, str] = {"r1_zero": _R1_ZERO, "plain": "{prompt}"}

# Strings that end a completion, besides the end-of-sequence token.
STOP: dict[str, tuple[str, ...]] = {"r1_zero": ("</answer>",), "plain": ()}


def render(template: str, question: str) -> str:
    """The prompt for `question`.

    The question is put in literally, so braces in it are safe.

    Raises:
      ValueError: `template` is not a key of `TEMPLATES`.
    """
    if template not in TEMPLATES:
        near = difflib.get_close_matches(template, list(TEMPLATES), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known templates: {', '.join(TEMPLATES)}"
        raise ValueError(f"template is {template!r}, which is not known; {hint}")
    return TEMPLATES[template].replace("{prompt}", question)
