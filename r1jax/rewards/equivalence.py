"""Symbolic equality by math-verify. Runs in grading workers only: imports sympy, may hang, may eat memory.

math-verify's own time limits use signals, which fail outside a main thread; they are switched off, and the
worker is killed from outside instead.
"""

from __future__ import annotations

import logging

import sympy
from math_verify import LatexExtractionConfig, parse, verify

RELATIVE_ERROR = 1e-6  # of a decimal that stands for an exact number

logging.getLogger("math_verify").setLevel(logging.ERROR)


def same(gold: str, candidate: str) -> bool | None:
    """Whether two canonical LaTeX texts are equal; None where one of them cannot be parsed.

    Stricter than math-verify alone in two places where it is lenient: a point or an interval is not a bare
    list ('(1,2)' against '2,1'), and numbers agree relatively, not to six decimals ('7e-7' against '8e-7').
    """
    golds, candidates = _expression(gold), _expression(candidate)
    if not golds or not candidates:
        return None
    if _is_ordered(gold) != _is_ordered(candidate):
        return False
    if not verify(golds, candidates, timeout_seconds=None):
        return False
    return _close(golds[0], candidates[0])


def _expression(text: str) -> list:
    if not text or "$" in text:
        return []
    return parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None)


def _is_ordered(text: str) -> bool:
    """Whether the text, less a name before it ('x \\in', 'P ='), is bracketed as points and intervals are."""
    body = text.split("\\in ", 1)[-1].split("=", 1)[-1].strip()
    return body.startswith(("(", "[")) and body.endswith((")", "]")) and "," in body


def _close(gold: object, candidate: object) -> bool:
    values = [sympy.N(side, 30) for side in (gold, candidate) if isinstance(side, sympy.Expr) and not side.free_symbols]
    if len(values) < 2 or not all(value.is_number and value.is_finite for value in values):
        return True  # not two numbers: verify's word stands
    return bool(sympy.Abs(values[0] - values[1]) <= RELATIVE_ERROR * sympy.Abs(values[0]))
