"""The benchmarks' section on start-up, from the lines of `bench/startup.py`."""

from __future__ import annotations

from typing import Any

INTRO = """## Start-up

From `python -m r1jax.main` to the record of the first step: of a pipeline's first stage from the command on (imports,
data, tokenizer, fresh weights, the update's program), of its second from the first one's result on. `cold` is with
nothing kept, neither compiled programs nor prepared data; `warm` is any later run: programs are kept in the user's
cache folder. `bench/startup.py`; medians, with the lowest and the highest seconds in parentheses."""
HEAD = """| config | stage | | seconds | processor s | programs | of them from the cache | compiling or reading, s |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def section(lines: list[dict[str, Any]]) -> str:
    """Markdown; "" where start-up was not measured."""
    found = [line for line in lines if line["measure"] == "startup"]
    return "\n".join([f"{INTRO}\n", HEAD, *map(_row, found)]) if found else ""


def _row(line: dict[str, Any]) -> str:
    low, high = line["span"]
    cells = (
        f"`{line['model']}`", line["stage"], line["state"], f"{line['value']:.1f} ({low:.1f}–{high:.1f})",
        f"{line['cpu_s']:.1f}", f"{line['programs']:.0f}", f"{line['cached']:.0f}", f"{line['compile_s']:.1f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"
