"""Text under judgement, put before a judge so that it cannot pass for the judge's instructions.

Four walls. A fence bears a mark that depends on all the texts, so that none can contain it. Every line of a text
begins with a bar, so that nothing in it stands where an instruction or a verdict would. Characters that cannot be seen
or that turn the reading direction are written out. What looks like a fence, in any alphabet, is broken up.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

BAR = "| "
# What Unicode or a terminal takes for the end of a line.
_LINE_ENDS = re.compile("\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
# Angle brackets and what resembles them; two in a row may look like a fence.
_ANGLES = "<>\u2039\u203a\u00ab\u00bb\u2329\u232a\u27e8\u27e9\u27ea\u27eb\u3008\u3009\u300a\u300b\uff1c\uff1e\u226a\u226b\u22d8\u22d9\ufe64\ufe65\u02c2\u02c3\u1438\u1433\u276e\u276f\u276c\u276d\u2770\u2771"  # noqa: E501
_FENCE_LIKE = re.compile(
    f"[{re.escape(_ANGLES)}](?=[{re.escape(_ANGLES)}])|[\u00ab\u00bb\u27ea\u27eb\u300a\u300b\u226a\u226b\u22d8\u22d9]"
)
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # control, format, surrogate, private, unassigned, separators


def fence(texts: Sequence[str], seed: int) -> str:
    """A mark of 16 hexadecimal digits that occurs in none of the texts and that they could not foresee.

    It is a hash of them all and of `seed`, not a draw from the system: the same request gives the same words, and a
    text that held its own mark would have to be a fixed point of the hash.
    """
    number = 0
    while True:
        digest = hashlib.blake2b(repr((seed, number, list(texts))).encode(errors="surrogatepass"), digest_size=8)
        mark = digest.hexdigest()
        if not any(mark in unicodedata.normalize("NFKC", text).lower() for text in texts):
            return mark
        number += 1


def quoted(label: str, text: str, mark: str) -> str:
    """`text` between two fences that name it."""
    body = "\n".join(BAR + _shown(line) for line in _LINE_ENDS.split(text))
    return f"<<<{label} {mark}>>>\n{body}\n<<<end of {label} {mark}>>>"


def _shown(line: str) -> str:
    """The line with hidden characters written out and fence-like runs broken by a backslash."""
    visible = "".join(
        character if character == "\t" or unicodedata.category(character) not in _HIDDEN else f"\\u{ord(character):04x}"
        for character in line
    )
    return _FENCE_LIKE.sub(lambda found: f"{found[0]}\\", visible)
