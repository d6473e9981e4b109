"""How figures and tables are written."""

from __future__ import annotations


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def si(number: float, unit: str = "") -> str:
    """Three digits and a prefix."""
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return (
                f"{number / size:.3g} {prefix}{unit}"
                if number / size < 1000
                else f"{number / size:,.0f} {prefix}{unit}"
            )
    return f"{number:.3g} {unit}".strip()


def seconds(number: float) -> str:
    return f"{number * 1e3:.3g} ms" if number < 1 else f"{number:,.3g} s" if number < 1000 else f"{number:,.0f} s"
