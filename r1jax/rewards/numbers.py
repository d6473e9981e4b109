"""Short answers as canonical text, exact numbers and words. No floats, no evaluation, no worker needed."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

MAX_NUMBER = 64  # characters; longer texts are not read as numbers
MAX_EXPONENT = 30  # of ten, in scientific notation


class Number(NamedTuple):
    value: Fraction
    unit: str  # singular, lower case; '' where none was written
    unevaluated: bool  # a quotient that is a whole number, as in 28/2


_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"))
_SPACES = re.compile(r"(?:\s|(?<!\\)\\(?:[,;:! ]|q?quad(?![A-Za-z]))|~)+")  # not the \\ that ends a matrix row
_THOUSANDS_GAP = re.compile(r",(?:\\!|\s)*(?=[0-9]{3}(?![0-9]))")
_SIZING = re.compile(r"\\(?:left|right|displaystyle|big|Big)(?![A-Za-z])")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_DEGREES = re.compile(r"\s*(?:\^\s*(?:\\circ|\{\s*\\circ\s*\})|°)")
_TEXT = re.compile(r"\\(?:text|mbox|textbf|textit|textrm|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z](?:_?[0-9]|_\{[0-9]\}|\([a-z]\))?\s*=(?!=)\s*")

_INT = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_ARG = r"\s*(?:\{{\s*(?P<{0}_braced>-?{1})\s*\}}|(?P<{0}_bare>[0-9]))"
_NUMBER = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?P<currency>[$€£]?)\s*
    (?:
        (?:(?P<whole>{_INT})\s*)?\\frac{_ARG.format("top", _INT)}{_ARG.format("bottom", _INT)}
      | (?:(?P<mixed>[0-9]+)\ +)?(?P<over>{_INT})\s*/\s*(?P<under>{_INT})
      | (?P<decimal>{_INT}(?:\.[0-9]*)?|\.[0-9]+)
        (?:(?:\s*(?:\\times|×)\s*10\s*\^\s*\{{?\s*|[eE])(?P<exponent>[-+]?[0-9]{{1,3}})\s*\}}?)?
    )
    (?P<unit>.*)""",
    re.VERBOSE | re.DOTALL,
)
_UNIT = re.compile(
    r"""\s*(?:
        % | percent | _\s*\{?\s*[0-9]{1,2}\s*\}?  # a percentage; a base, as in 52_8
      | (?:\s|(?=[A-Za-z]{2}))[A-Za-z]+(?:[\ /][A-Za-z]+){0,3}(?:\s*\^\s*\{?[0-9]\}?)?
    )?""",
    re.VERBOSE,
)
_NOT_UNITS = frozenset(
    [
        "hundred",
        "thousand",
        "million",
        "billion",
        "trillion",
        "dozen",
        "half",
        "halves",
        "third",
        "thirds",
        "quarter",
        "quarters",
        "squared",
        "cubed",
        "factorial",
        "times",
        "plus",
        "minus",
        "over",
        "divided",
        "or",
        "and",
        "not",
        "to",
        "pi",
        "e",
        "i",
        "x",
        "y",
        "z",
        "n",
        "k",
        "m",
        "b",
        "bn",
        "mn",
        "sqrt",
        "sin",
        "cos",
        "tan",
        "log",
        "ln",
        "exp",
        "mod",
        "inf",
    ]
)
_SINGULAR = {"%": "percent", "inches": "inch", "feet": "foot", "usd": "dollar"}
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound"}


def canonical(text: str, drop_name: bool = False) -> str:
    """An answer's text without what carries no meaning: math delimiters, \\boxed, spacing, a final full stop.

    Args:
      text: at most a few hundred characters.
      drop_name: also drop a name before an equals sign, as in 'x = 5'.
    """
    text = text.strip()
    for _ in range(4):
        bare = _unwrap(text).rstrip(".").strip()
        if bare == text:
            break
        text = bare
    text = _THOUSANDS_GAP.sub(",", text) if "\\!" in text else text
    text = text.replace("\\!", "").replace("\\$", "$").replace("\\%", "%").replace("−", "-")
    text = _FRACTION.sub(lambda _: "\\frac", _SIZING.sub("", text))
    text = _SPACES.sub(" ", text).strip()
    return _NAME.sub("", text, count=1) if drop_name and _NAME.match(text) else text


def _unwrap(text: str) -> str:
    for left, right in _WRAPPERS:
        inner = text[len(left) : -len(right)]
        if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right):
            return text if left in inner or right in inner else inner.strip()
    if text.startswith("\\boxed{") and text.endswith("}") and _braces_close_last(text[len("\\boxed") :]):
        return text[len("\\boxed{") : -1].strip()
    return text


def _braces_close_last(text: str) -> bool:
    """Whether the brace that opens the text is closed by its last character, and not before."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return i == len(text) - 1
    return False


def number(text: str) -> Number | None:
    """A canonical text as an exact number, or None: integers, decimals, fractions, mixed, scientific; with a unit."""
    if len(text) > MAX_NUMBER:
        return None
    plain = _TEXT.sub(r" \1 ", _DEGREES.sub(" degrees", text)).strip()
    match = _NUMBER.fullmatch(plain)
    if match is None or _UNIT.fullmatch(match["unit"]) is None:
        return None
    unit = _unit(match["currency"], match["unit"])
    if unit is None or abs(int(match["exponent"] or 0)) > MAX_EXPONENT:
        return None
    whole, top, bottom = _parts(match)
    if bottom == 0:
        return None
    value = (whole + Fraction(top, bottom)) * Fraction(10) ** int(match["exponent"] or 0)
    sign = -1 if match["sign"] == "-" else 1
    return Number(sign * value, unit, bottom != 1 and match["decimal"] is None and value.denominator == 1)


def _parts(match: re.Match[str]) -> tuple[int, int, int]:
    """Whole part, numerator, denominator."""
    if match["decimal"] is not None:
        whole, _, tail = match["decimal"].replace(",", "").partition(".")
        return 0, int(whole + tail), 10 ** len(tail)
    if match["over"] is not None:
        return int(match["mixed"] or 0), _int(match["over"]), _int(match["under"])
    top, bottom = (match[f"{part}_braced"] or match[f"{part}_bare"] for part in ("top", "bottom"))
    return _int(match["whole"] or "0"), _int(top), _int(bottom)


def _int(text: str) -> int:
    return int(text.replace(",", ""))


def _unit(currency: str, tail: str) -> str | None:
    """The unit in singular, '' for none, None where the words change the value or contradict the currency."""
    tail = re.sub(r"[{}]|\s+(?=\^)|(?<=\^)\s+", "", tail.strip().lower())
    parts = re.split(r"[ /]", tail)
    if not _NOT_UNITS.isdisjoint(parts) and tail != "m":
        return None
    unit = tail.replace(" ", "") if tail.startswith("_") else " ".join(_singular(part) for part in parts)
    if not currency:
        return unit
    return _CURRENCIES[currency] if unit in ("", _CURRENCIES[currency]) else None


def _singular(word: str) -> str:
    name, power, exponent = word.partition("^")
    name = _SINGULAR.get(name) or (name[:-1] if len(name) > 3 and name.endswith("s") else name)
    return name + power + exponent


def same_number(gold: Number, candidate: Number) -> bool:
    """Exact equality. A unit may be left out; one that is written must be the gold answer's, if that has one.

    A percentage equals its figure and its fraction: 50% is 50 where the question asked for percent, and 1/2.
    """
    if candidate.unevaluated:
        return False
    if gold.unit and candidate.unit and gold.unit != candidate.unit:
        return False
    if gold.value == candidate.value:
        return True
    if (gold.unit == "percent") == (candidate.unit == "percent"):
        return False
    return gold.value == candidate.value / 100 if candidate.unit == "percent" else gold.value / 100 == candidate.value


_WORDS = re.compile(r"[^\W\d_][^\W\d_'’\-,. ]*(?:[ '’\-,.]+[^\W\d_]+)*")
_PHRASE = re.compile(r"[\w'’\-,.:;!?&/ ]+")  # words with figures among them: a date, an address
_WORD = re.compile(r"(?<![^ ])[^\W\d_]{3,}(?![\w/])")  # '2xyz' has none
_CHOICE = re.compile(r"\(?([A-Z])[).]?")
_MATHEMATICAL = frozenset(
    ["pi", "infty", "infinity", "inf", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt"]
)
_LAST_GREEK = "\u03ff"


def words(text: str) -> str | None:
    r"""A canonical text as lower-case words or a choice's letter, or None where it is not plainly that.

    \text{(C)}, (C) and C are one; \text{Evelyn} and evelyn too. Bare runs of one or two Latin or Greek letters are
    taken for variables, not words, and so are figures with 'and', 'or' or a function's name between them.
    """
    inner = _TEXT.sub(r"\1", text).strip()
    choice = _CHOICE.fullmatch(inner)
    if choice:
        return choice[1].lower()
    parts = inner.lower().split()
    if _WORDS.fullmatch(inner) is not None:
        variables = inner == text and max(map(len, parts)) < 3 and max(inner) <= _LAST_GREEK
        return None if variables or _MATHEMATICAL & set(parts) else " ".join(parts)
    is_text = _TEXT.fullmatch(text) is not None or ("\\" not in text and _WORD.search(inner) is not None)
    if not is_text or _PHRASE.fullmatch(inner) is None:
        return None
    return None if (_MATHEMATICAL | _NOT_UNITS) & set(parts) else " ".join(parts)
