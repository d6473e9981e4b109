"""docs/benchmarks.md from the lines of `bench/compare.py`, and of the other measurements where they are given.

python bench/page.py runs/bench.jsonl runs/ragged.jsonl runs/startup.jsonl runs/kernels.jsonl runs/growth.jsonl \\
    --growth-figure docs/benchmarks_growth.svg > docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import page_growth, page_kernels, page_startup

MEASURES = {  # what is compared, in this order; whether less is better
    "rollout": ("rollout, tokens/s", False),
    "grpo_rollout": ("rollout within the GRPO step, tokens/s", False),
    "update": ("update, tokens/s", False),
    "grpo_step": ("GRPO step, s", True),
    "grpo_peak_rss": ("GRPO step, peak memory, MiB", True),
    "sft": ("SFT, tokens/s", False),
}
COMPILES = ("rollout_compile", "grpo_compile", "sft_compile")
QUIET = 0.12  # cores that other work may take in a measurement worth keeping

Line = dict[str, Any]
HEAD = """# Benchmarks

r1jax beside TRL with transformers, and beside Tunix, on the same small workloads with the same shapes, data, reward
and hyperparameters: 8 prompts of 64 tokens, 8 samples each of exactly 128 tokens; a GRPO step with a reference pass
(KL 0.04) and one update; SFT on 32 rows of 192 tokens. Weights are random. `bench/workloads.py` has the shapes.

This page is made by `bench/page.py` from the lines of `bench/compare.py`. In what is compared all took turns, a process
each, in one run of it; policies of other numbers of repeats were runs of their own. A figure is the median of the
rounds, or of the repeats of a single round, with the lowest and the highest in parentheses. Ratios are of medians,
above 1 where r1jax is ahead; they are taken against the better of the peers.
"""

RAGGED = """## Ragged lengths

Completions that end at any token with a chance of one in 64, cut at 256, against the same engine's static batch, which
goes on at its largest until its longest sequence is done (`bench/ragged.py`). `cut`: 64 sequences, caches growing and
the batch halving. `refill`: 256 sequences in 64 slots that are filled again, against four static batches.

| model | | static takes so many times as long | repeats |
| --- | --- | --- | --- |"""
JOB = (
    "## The same weights, the same job\n\nA trained policy in r1jax and in TRL: [benchmarks_job.md](benchmarks_job.md)."
)


def page(lines: list[Line], growth_figure: str) -> str:
    """The whole page, as Markdown; `growth_figure` is a link from it."""
    machine = next(line for line in lines if line["measure"] == "machine")
    parts = [HEAD, _machine(machine, lines), _ceilings(lines)]
    compared = [line for line in lines if line["measure"] in MEASURES]
    for model in dict.fromkeys(line["model"] for line in compared):
        for dtype in ("float32", "bfloat16"):
            found = [line for line in lines if line.get("model") == model and dtype_of(line) == dtype]
            if found:
                parts.append(f"## {model}, {dtype}\n\n{_table(found)}\n\n{_shares(found, lines, dtype)}")
    parts += [ragged(lines), JOB, page_startup.section(lines)]
    parts += [page_kernels.section(lines), busy(lines, "kernel")]
    parts += [page_growth.section(lines, growth_figure), busy(lines, "growth")]
    failed = [f"- `{line['command']}`: {line['why']}" for line in lines if line["measure"] == "failed"]
    if failed:
        parts.append("## Not measured\n\n" + "\n".join(failed))
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def ragged(lines: list[Line]) -> str:
    """What the engine gains where lengths are ragged."""
    names = {"ragged_gain": "cut", "refill_gain": "refill"}
    rows = [
        f"| {line['model']} | {names[line['measure']]} | {line['value']:.2f}× "
        f"({line['span']['static'][0]:.2f}–{line['span']['static'][1]:.2f}) | {line['n']} |"
        for line in lines
        if line["measure"] in names
    ]
    return "\n".join([RAGGED, *rows]) if rows else ""


def busy(lines: list[Line], measure: str) -> str:
    """What other work took while something was measured; "" where the machine was quiet."""
    most = max(
        (line["other_cores"] for line in lines if line["measure"] == measure and "other_cores" in line), default=0
    )
    return f"Other work took up to {most:.1f} cores meanwhile." if most > QUIET else ""


def dtype_of(line: Line) -> str:
    """The compute dtype that a line's setting names; "" where it has none."""
    return dict(part.split("=", 1) for part in line.get("setting", "").split(",") if "=" in part).get("dtype", "")


def spread(lines: Iterable[Line], key: str = "value") -> tuple[float, float, float]:
    """(median, least, most) of some rounds; of a single one, of the repeats within it."""
    found = list(lines)
    if len(found) == 1 and key == "value" and "span" in found[0]:
        return float(found[0]["value"]), *map(float, found[0]["span"])
    values = [float(line[key]) for line in found]
    return statistics.median(values), min(values), max(values)


def ratio(ours: float, theirs: Iterable[float], less_is_better: bool) -> float:
    """How far ahead of the better of the others, above 1 where ahead."""
    return min(theirs) / ours if less_is_better else ours / max(theirs)


def share_of_ceiling(line: Line, ceiling_gflops: float) -> float:
    """What part of the machine's matmul speed a piece of work reached, counting the model's FLOPs alone."""
    return line["flops"] / line["median_s"] / 1e9 / ceiling_gflops


def _machine(machine: Line, lines: list[Line]) -> str:
    versions = [f"- {line['peer']}: {line['value']}" for line in lines if line["measure"] == "versions"]
    loads = [line["other_cores"] for line in lines if "other_cores" in line and line["measure"] in MEASURES]
    noisy = sum(load > QUIET for load in loads)
    warning = f" **In {noisy} of {len(loads)} measurements other work took more than {QUIET} cores: the machine was not quiet, and the figures are to be read as ratios at most.**"  # noqa: E501
    where = f"{machine['date']}, {machine['cores']} cores of {machine['processor']} ({machine['architecture']}), {machine['memory_gib']:g} GiB."  # noqa: E501
    return f"## Where and with what\n\n{where}{warning if noisy else ''}\n\n" + "\n".join(versions)


def _ceilings(lines: list[Line]) -> str:
    grouped: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in lines:
        if line["measure"] == "ceiling":
            grouped[line["peer"], line["dtype"]].append(line)
    rows = [
        f"| {peer} | {dtype} | {_show(spread(found))} |"
        for (peer, dtype), found in sorted(grouped.items(), key=lambda item: item[0][::-1], reverse=True)
    ]
    head = "A matmul of 2,048 by 2,048, measured in every round:\n\n| | dtype | GFLOP/s |\n| --- | --- | --- |\n"
    return head + "\n".join(rows) if rows else ""


def _table(found: list[Line]) -> str:
    peers = list(dict.fromkeys(line["peer"] for line in found))
    rows = [f"| | {' | '.join(peers)} | r1jax ahead by |", "| --- |" + " --- |" * (len(peers) + 1)]
    for measure, (title, less) in MEASURES.items():
        of = {peer: [x for x in found if (x["peer"], x["measure"]) == (peer, measure)] for peer in peers}
        if not any(of.values()):
            continue
        cells = [_show(spread(of[peer])) if of[peer] else "not supported" for peer in peers]
        medians = {peer: spread(of[peer])[0] for peer in peers if of[peer]}
        ours = medians.pop("r1jax", None)
        ahead = f"{ratio(ours, medians.values(), less):.2f}×" if ours and medians else ""
        rows.append(f"| {title} | {' | '.join(cells)} | {ahead} |")
    return "\n".join(rows)


def _shares(found: list[Line], lines: list[Line], dtype: str) -> str:
    """r1jax alone: shares of the ceiling, padding, compiles."""
    ceilings = [x for x in lines if x["measure"] == "ceiling" and (x["peer"], x["dtype"]) == ("jax", dtype)]
    ours = [line for line in found if line["peer"] == "r1jax"]
    said = []
    if ceilings:
        shares = []
        for measure in ("rollout", "update", "sft"):
            of = [x for x in ours if x["measure"] == measure and "flops" in x]
            if of:
                share = statistics.median(share_of_ceiling(x, _ceiling(x, ceilings)) for x in of)
                shares.append(f"{measure} {share:.0%}")
        said.append(f"Share of JAX's fastest {dtype} matmul in the same round: {', '.join(shares)}." if shares else "")
    repeats = {line["n"] for line in ours if "n" in line}
    if repeats:
        said.append(f"Repeats in a round: {', '.join(map(str, sorted(repeats)))}.")
    padding = [line["padding"] for line in ours if "padding" in line]
    if padding:
        said.append(f"Padding in the update: {statistics.median(padding):.1%}.")
    compiled = [
        f"{measure.removesuffix('_compile')} {statistics.median(x['programs'] for x in of):.0f} programs in "
        f"{spread(of)[0]:.1f} s"
        for measure in COMPILES
        if (of := [x for x in ours if x["measure"] == measure])
    ]
    if compiled:
        said.append(f"Compiled: {', '.join(compiled)}.")
    return " ".join(filter(None, said))


def _ceiling(line: Line, ceilings: list[Line]) -> float:
    """The most that was seen in the line's own round: other work slows a matmul down, and nothing makes it faster."""
    best = {x["round"]: x["span"][1] if "span" in x else x["value"] for x in ceilings}
    return best.get(line["round"], max(best.values()))


def _show(figures: tuple[float, float, float]) -> str:
    median, least, most = (f"{x:.0f}" if x >= 100 else f"{x:.3g}" for x in figures)
    return f"{median} ({least}–{most})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lines", type=Path, nargs="+")
    parser.add_argument("--growth-figure", type=Path, default=Path("docs/benchmarks_growth.svg"))
    args = parser.parse_args()
    lines = [json.loads(line) for path in args.lines for line in path.read_text(encoding="utf-8").splitlines()]
    print(page(lines, args.growth_figure.name), end="")


if __name__ == "__main__":
    main()
