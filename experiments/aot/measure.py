"""What the TPU compiler says of the configs for TPUs: runs `r1jax.aot` on each, and writes the tables of docs/aot.md.

python -m experiments.aot.measure                      # compiles all, an hour on two cores
python -m experiments.aot.measure r1_16b v6e:4x4       # what all words name: config, topology, slices, program
python -m experiments.aot.measure --tables             # the page alone, from results.jsonl
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
RESULTS, PAGE = FOLDER / "results.jsonl", ROOT / "docs" / "aot.md"
PROGRAMS = ("rl_step", "sft_step", "rollout")
# config file (with its argument), topology, slices
MACHINES = (
    ("r1_671b.py", "v5p:8x8x16", 1),
    ("r1_16b.py", "v5p:2x2x4", 1),
    ("r1_16b.py", "v6e:4x4", 1),
    ("r1_16b.py:2", "v5p:2x2x4", 2),
    ("r1_1_5b.py", "v5e:2x4", 1),
)
HEAD = (
    "config", "chips", "program", "mesh", "sequences x tokens",
    "arguments", "temporaries", "total", "limit", "sent", "FLOPs", "s",
)  # fmt: skip
KEPT = 8  # arrays of a result, the largest
KEY = ("file", "topology", "slices", "program")
GIB = 2**30


def compile_one(file: str, topology: str, slices: int, program: str) -> dict[str, Any]:
    """One run of the verb, with the longest list cut."""
    words = [f"--config=configs/{file}", f"--topology={topology}", f"--slices={slices}", f"--program={program}"]
    done = subprocess.run([sys.executable, "-m", "r1jax.aot", *words], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if not done.stdout:
        raise RuntimeError(f"{' '.join(words)} gave no result (exit code {done.returncode})")
    result = json.loads(done.stdout)
    return result | {"arrays": result["arrays"][:KEPT]} | dict(zip(KEY, (file, topology, slices, program), strict=True))


def row(result: dict[str, Any]) -> str:
    """A line of the first table."""
    hbm, mesh = result["hbm"], " ".join(f"{name} {size}" for name, size in result["mesh"].items())
    slices = f"{result['slices']} x " if result["slices"] > 1 else ""
    cells = [
        result["file"].split(".")[0],
        f"{slices}{result['topology']}",
        result["program"],
        mesh,
        f"{result['sequences']:,} x {result['tokens'] // result['sequences']:,}",
        *(f"{hbm[key] / GIB:.1f}" for key in ("arguments", "temporaries", "total", "limit")),
        f"{sum(result['sent'].values()) / GIB:.1f}",
        f"{result['model_flops']:.2e}",
        f"{result['compile_s']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def tables(results: Sequence[dict[str, Any]]) -> str:
    """The part of the page that is made; nothing where nothing has been compiled."""
    if not results:
        return ""
    lines = ["| " + " | ".join(HEAD) + " |", "| --- " * len(HEAD) + "|"]
    lines += [row(result) for result in results]
    for result in results:
        name = f"{result['file'].split('.')[0]}, {result['program']} on {result['slices']} x {result['topology']}"
        lines += [
            "",
            f"**{name}**: the largest arrays, and what a chip sends most of",
            "",
            "| GiB | what |",
            "| --- | --- |",
        ]
        lines += [
            f"| {x['bytes'] / GIB:.2f} | {x['kind']} `{x['shape']}` {x['source']} |" for x in result["arrays"][:4]
        ]
        lines += [
            f"| {x['bytes'] / GIB:.2f}{' a pass' if x['open_ended'] else ''} | {x['times']:,} x {x['kind']} "
            f"`{x['shape']}` over {x['group']}, {x['source']} |"
            for x in result["collectives"][:6]
        ]
    return "\n".join(lines) + "\n"


def load() -> list[dict[str, Any]]:
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def put(page: str, made: str) -> str:
    """The page with its tables replaced."""
    before, mark, rest = page.partition("<!-- tables -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not (mark and end):
        raise ValueError(f"{PAGE} has no <!-- tables --> ... <!-- end -->")
    return before + mark + made + end + after


def main(words: list[str]) -> None:
    programs = [program for program in PROGRAMS if program in words] or PROGRAMS
    named = {word for word in words if word not in PROGRAMS}
    wanted = [(file, *rest) for file, *rest in MACHINES if named <= {file.split(".")[0], *map(str, rest)}]
    results = load()
    for file, topology, slices in wanted if words != ["--tables"] else ():
        for program in programs:
            new = compile_one(file, topology, slices, program)
            results = [old for old in results if [old[key] for key in KEY] != [new[key] for key in KEY]] + [new]
            order = [(*machine, program) for machine in MACHINES for program in PROGRAMS]
            results.sort(key=lambda result: order.index(tuple(result[key] for key in KEY)))
            RESULTS.write_text("".join(json.dumps(result) + "\n" for result in results), encoding="utf-8")
    PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), tables(results)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
