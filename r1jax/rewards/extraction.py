"""Where a completion's answer stands: in an answer block, a box, after '#### ', or on the last line.

What was thought is never the answer. Each form wants one answer: of several that differ, none counts, so that a
policy cannot try its luck. Linear time; no regular expression meets more than one short line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping

from r1jax.rewards.format import ANSWER, END_ANSWER, END_THINK, THINK

MAX_BOXES = 8  # in a summary
MAX_BOX = 4096  # characters of one
MAX_LINE = 512  # of a last line
BOX, HASHES = "\\boxed{", "####"
REST = "*"  # in a table by task: all tasks that it does not name

_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final )?answer(?: is)?:? +"
    r"|(?:(?:así que|entonces|por tanto),? )?(?:la )?respuesta(?: final)?(?: es)?:? +",
    re.IGNORECASE,
)

Extract = Callable[[str], str | None]


def answer_block(completion: str) -> str | None:
    """What stands in the answer block, stripped, or None where there is no single final answer.

    The completion must end with its only answer block. Thinking before it is optional, since accuracy is
    judged apart from format, but a block inside an unclosed thought is not an answer, and neither is one
    that holds tags or nothing.
    """
    text = completion.rstrip()
    if not text.endswith(END_ANSWER) or text.count(END_ANSWER) != 1 or text.count(ANSWER) != 1:
        return None
    start = text.find(ANSWER)
    before, content = text[:start], text[start + len(ANSWER) : -len(END_ANSWER)]
    if before.rfind(THINK) > before.rfind(END_THINK):
        return None
    if THINK in content or END_THINK in content:
        return None
    return content.strip() or None


def boxed(completion: str) -> str | None:
    r"""What stands in the summary's \boxed{}; several must be of one spelling. Text may follow."""
    text = summary(completion)
    if text is None or not 1 <= text.count(BOX) <= MAX_BOXES:
        return None
    parts = text.split(BOX)[1:]
    contents = {_to_closing_brace(part[:MAX_BOX]) for part in parts}
    content = contents.pop()
    return None if contents or content is None else content.strip() or None


def after_hashes(completion: str) -> str | None:
    """What follows '#### ' on the summary's last line, as in GSM8K's solutions; the hashes occur once."""
    text = summary(completion)
    if text is None or text.count(HASHES) != 1:
        return None
    content = text[text.find(HASHES) + len(HASHES) :].strip()
    return None if "\n" in content else content or None


def last_line(completion: str) -> str | None:
    """The summary's last line, less 'The answer is' before it, or 'La respuesta es'."""
    text = summary(completion)
    line = "" if text is None else text.rstrip().rpartition("\n")[2].strip()
    if not line or len(line) > MAX_LINE:
        return None
    return _LEAD.sub("", line, count=1).strip() if _LEAD.match(line) else line


def summary(completion: str) -> str | None:
    """What follows the last thought, all of it where there is none; None in an unclosed thought."""
    after = completion.rpartition(END_THINK)[2]
    return None if THINK in after else after


FORMS: dict[str, Extract] = {
    "answer": answer_block,
    "boxed": boxed,
    "hashes": after_hashes,
    "last_line": last_line,
}


def extractor(form: str | Mapping[str, str], field: str) -> Callable[[str, str], str | None]:
    """A function (completion, task) -> answer or None.

    Args:
      form: one of FORMS, or a table from task to form, in which '*' stands for the other tasks.
      field: what to call `form` in an error.

    Raises:
      ValueError: a form is not known.
    """
    table = {REST: form} if isinstance(form, str) else dict(form)
    for name in table.values():
        if name not in FORMS:
            near = difflib.get_close_matches(str(name), list(FORMS), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{field} is {name!r}; expected one of {', '.join(map(repr, FORMS))}{hint}")

    def extract(completion: str, task: str) -> str | None:
        name = table.get(task, table.get(REST))
        if name is None:
            raise ValueError(f"{field} is {form!r}, with no form for the task {task!r}; add it, or '{REST}'")
        return FORMS[name](completion)

    return extract


def _to_closing_brace(text: str) -> str | None:
    """Up to the brace that closes the one before the text; None where there is none. Escaped braces do not count."""
    depth, i = 1, 0
    while i < len(text):
        char = text[i]
        if char == "\\":
            i += 1
        elif char in "{}":
            depth += 1 if char == "{" else -1
            if depth == 0:
                return text[:i]
        i += 1
    return None
