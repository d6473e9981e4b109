"""How a question becomes the text a model is prompted with."""

from __future__ import annotations

import difflib
import functools
import json
from typing import Any

from r1jax.data.hf_vocabulary import HfVocabulary
from r1jax.data.tokenizer import Tokenizer

# The R1-Zero template, to the letter (DeepSeek-R1, table 1).
_R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
    "answer. The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> "
    "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
    "User: {prompt}. Assistant:"
)

# Asks for nothing: a policy that was taught R1's readable form thinks, or does not, of its own accord.
_R1 = "User: {prompt} Assistant:"

TEMPLATES: dict[str, str] = {"r1_zero": _R1_ZERO, "r1": _R1, "plain": "{prompt}"}
CHAT = "chat"  # the checkpoint's own template, which its tokenizer brings

# Strings that end a completion, besides the end-of-sequence token.
STOP: dict[str, tuple[str, ...]] = {"r1_zero": ("</answer>",), "r1": (), "plain": (), CHAT: ()}


def check(template: str) -> None:
    """Raises ValueError where `template` is neither a key of `TEMPLATES` nor "chat"; names the nearest."""
    if template not in STOP:
        near = difflib.get_close_matches(template, list(STOP), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known templates: {', '.join(STOP)}"
        raise ValueError(f"template is {template!r}, which is not known; {hint}")


def render(template: str, question: str, tokenizer: Tokenizer | None = None) -> str:
    """The prompt for `question`.

    The question is put in literally, so braces in it are safe.

    Args:
      tokenizer: whose chat template "chat" is; the others need none.

    Raises:
      ValueError: `template` is not known, the tokenizer has no chat template, or that one fails; or the question
        spells a control token, by which it could end its own turn and speak in another's name.
    """
    check(template)
    if tokenizer is not None:
        spelt = [text for text in tokenizer.control if text in question]
        if spelt:
            raise ValueError(
                f"a question holds {min(spelt, key=question.index)!r}, a control token of this tokenizer; leave it out"
            )
    if template != CHAT:
        return TEMPLATES[template].replace("{prompt}", question)
    if tokenizer is None or not isinstance(tokenizer.vocabulary, HfVocabulary) or not tokenizer.chat_template:
        raise ValueError("template is 'chat', but the tokenizer brings no chat template; use 'plain' or 'r1_zero'")
    jinja2 = _jinja()
    try:
        return _compiled(tokenizer.chat_template).render(
            messages=[{"role": "user", "content": question}],
            add_generation_prompt=True,
            tools=None,
            documents=None,
            **tokenizer.vocabulary.texts,
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"the tokenizer's chat template fails on a question: {error}") from error


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    """The template as transformers would compile it, in a sandbox: it is another's program.

    `strftime_now` is left out: a prompt that changes with the day could not be reproduced.
    """
    jinja2 = _jinja()
    sandbox = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    sandbox.globals["raise_exception"] = functools.partial(_refuse, jinja2)
    sandbox.filters["tojson"] = _to_json
    return sandbox.from_string(source)


def _jinja() -> Any:
    try:
        import jinja2.sandbox
    except ImportError as error:
        raise ValueError("template is 'chat', which needs the package 'jinja2'; install r1jax[hf]") from error
    return jinja2


def _refuse(jinja2: Any, message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    """As it stands; Jinja's own would write HTML entities."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
