"""Answers that are nearly a gold answer: another sign, off by one, coordinates swapped, another unit."""

from __future__ import annotations

import re

_INTEGER = re.compile(r"(?<![\d.,])\d+(?![\d,])")
_PAIR = re.compile(r"\(([^(),]+),([^(),]+)\)")
_UNITS = {"^\\circ": " \\text{ radians}", "\\text{ cm}": "\\text{ m}", "\\text{ inches}": "\\text{ feet}", "\\$": "€"}


def near_misses(gold: str) -> list[tuple[str, str]]:
    """(kind, answer) of every kind that can be made of the gold answer, a LaTeX text."""
    gold = gold.replace("\\left", "").replace("\\right", "").strip()
    found = [("off by one", off_by_one(gold)), ("sign", other_sign(gold)), ("swapped", swapped(gold))]
    return [(kind, text) for kind, text in [*found, ("unit", other_unit(gold))] if text is not None]


def off_by_one(gold: str) -> str | None:
    """Its first integer is one more; a choice is the next one."""
    if re.fullmatch(r"\\text\{\([A-D]\)\}", gold):
        return gold.replace(gold[7], chr(ord(gold[7]) + 1))
    match = _INTEGER.search(gold)
    return None if match is None else gold[: match.start()] + str(int(match[0]) + 1) + gold[match.end() :]


def other_sign(gold: str) -> str | None:
    """Minus the number or expression; of a pair, minus its first part."""
    pair = _PAIR.fullmatch(gold)
    if pair:
        return None if pair[1].strip() == "0" else f"({negated(pair[1])},{pair[2]})"
    # A minus before a list, an equation, an interval, a set, a table or words does not make another value of it.
    if re.search(r"[,=\[\]]|\\(?:in|pm|cup|infty|text|begin|\{)(?![a-z])|[a-z]{3}(?<!frac)(?<!sqrt)(?<!cot)", gold):
        return None
    if not gold.strip("0. "):
        return None
    return negated(gold)


def negated(text: str) -> str:
    text = text.strip()
    if text.startswith("-") and not re.search(r"[-+]", text[1:]):
        return text[1:]
    return f"-({text})" if re.search(r"[-+]", text) else f"-{text}"


def swapped(gold: str) -> str | None:
    """A pair the other way round."""
    pair = _PAIR.fullmatch(gold)
    return None if pair is None or pair[1].strip() == pair[2].strip() else f"({pair[2]},{pair[1]})"


def other_unit(gold: str) -> str | None:
    for unit, other in _UNITS.items():
        if unit in gold:
            return gold.replace(unit, other)
    return None


def near_numbers(gold: str) -> list[tuple[str, str]]:
    """(kind, answer) for a gold answer that is a whole number."""
    value = int(gold.replace(",", ""))
    digits = str(abs(value))
    found = [("off by one", str(value + 1)), ("off by one", str(value - 1)), ("unit", f"{value} thousand")]
    found += [("tenfold", f"{value}0"), ("tenth", f"{value}.5"), ("unit", f"{value} / 60")]
    if digits != digits[::-1]:
        found.append(("swapped", digits[::-1]))
    return found if value == 0 else [*found, ("sign", str(-value))]
