"""The job's section and its figure, from the lines of `bench/job.py`.

python bench/job_page.py runs/job.jsonl --figure docs/benchmarks_job.svg > docs/benchmarks_job.md
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import job_setting as job  # noqa: E402

PEERS = {"r1jax": "#1f6f8b", "trl": "#c8553d"}
WARM_UP = 2  # steps of each seed that are left out of seconds a step: r1jax compiles in them
LATE = 10  # last steps, whose mean reward says where a run has come to

STEP_FIGURES = {"seconds": "seconds a step", "rollout_s": "of them rollout", "cpu_s": "processor seconds a step"}
RUN_FIGURES = {"whole_s": f"seconds of a run of {job.STEPS} steps", "rss_mib": "peak memory, MiB"}

Line = dict[str, Any]
TEXT = """# The same weights, the same job

r1jax and TRL's `GRPOTrainer` train one policy, the quickstart's base ({parameters}), for one job:
{prompts} arithmetic prompts a step in the same order, {samples} samples of each, the same reward (a Python function of
text: 0.1 for the form, 1 more for the right integer), at most {tokens} tokens at temperature 1, AdamW at {lr:g}, a KL
of {kl:g} to the base, one update a step, all in float32. Completions end where the policy ends them, at
{length:.0f} tokens in the mean, a step's longest at {longest:.0f}. TRL opens the files that `r1jax.convert` writes.

Two settings are not TRL's own. Advantages are rewards less their group's mean, undivided, as the two divide by
different deviations (TRL by a sample's, r1jax by a population's). The KL is not weighed by the ratio
(`use_bias_correction_kl`, which changes its gradient even where the ratio is 1), as r1jax's is the plain k3.

{machine} {versions}. A process a seed, in turn; `bench/job.py` has the commands.
"""


def section(lines: list[Line], parameters: str, figure: str, alone: Sequence[int] = job.SEEDS) -> str:
    """The section as Markdown.

    Args:
      parameters: the policy's size, in words.
      figure: the path of the picture, as a link from the page.
      alone: seeds that had the machine to themselves, of which seconds and memory are told.
    """
    quiet = [line for line in lines if line.get("seed") in alone]
    steps = {peer: timed(quiet, peer) for peer in PEERS}
    machine = next(line for line in lines if line["measure"] == "machine")
    wholes = {peer: [x for x in quiet if x.get("peer") == peer and x["measure"] == "whole"] for peer in PEERS}
    ours = [line for line in lines if line.get("peer") == "r1jax" and line["measure"] == "step"]
    where = f"{machine['date']}, {machine['cores']} cores of a shared {machine['architecture']} server."
    intro = TEXT.format(
        parameters=parameters, prompts=job.PROMPTS, samples=job.SAMPLES, tokens=job.MAX_TOKENS, lr=job.LEARNING_RATE,
        kl=job.KL_COEF, machine=where, length=statistics.mean(x["length"] for x in ours),
        longest=statistics.median(x["longest"] for x in ours),
        versions="; ".join(found[0]["versions"] for found in wholes.values()),
    )  # fmt: skip
    rows = ["| | r1jax | TRL | r1jax ahead by |", "| --- | --- | --- | --- |"]
    for key, title in STEP_FIGURES.items():
        rows.append(_row(title, *([x[key] for x in steps[peer]] for peer in PEERS)))
    rows.append(_row("the fastest step, s", *([min(x["seconds"] for x in steps[peer])] for peer in PEERS)))
    for key, title in RUN_FIGURES.items():
        rows.append(_row(title, *([x[key] for x in wholes[peer]] for peer in PEERS)))
    notes = _notes(wholes["r1jax"], ours)
    if set(alone) < set(job.SEEDS):
        notes += f" Seconds are those of seed {', '.join(map(str, alone))}; other work ran beside the other seeds."
    link = f"![Reward and seconds a step]({figure})"
    return "\n\n".join([intro.strip(), "\n".join(rows), notes, *_checks(lines), agreement(lines), link])


def _notes(wholes: list[Line], steps: list[Line]) -> str:
    """What the table's figures are of, and what r1jax compiled and padded."""
    programs, seconds = wholes[0]["programs"], statistics.median(x["compile_s"] for x in wholes)
    late = sum(step["compiled"] for step in steps if step["step"] >= WARM_UP)
    padding = [step["padding"] for step in steps]
    return (
        f"Medians over steps, the first {WARM_UP} of a seed left out, or over runs, which hold start and compilation; "
        f"in parentheses the lowest and the highest. r1jax compiled {programs} programs in {seconds:.1f} s a run, "
        f"{late} of them after the first {WARM_UP} steps. Padding in its update: {statistics.mean(padding):.1%} of the "
        f"places in the mean of the steps, {max(padding):.1%} at most."
    )


def timed(lines: list[Line], peer: str) -> list[Line]:
    """A peer's steps of all seeds, but for the first ones."""
    return [x for x in lines if x.get("peer") == peer and x["measure"] == "step" and x["step"] >= WARM_UP]


def curves(lines: list[Line], peer: str, key: str) -> np.ndarray:
    """[seeds, steps] of a figure, as far as every seed has come."""
    found = sorted((x for x in lines if x.get("peer") == peer and x["measure"] == "step"), key=lambda x: x["step"])
    seeds = sorted({x["seed"] for x in found})
    rows = [[x[key] for x in found if x["seed"] == seed] for seed in seeds]
    return np.array([row[: min(map(len, rows))] for row in rows])


def agreement(lines: list[Line]) -> str:
    """Where the runs have come to, and whether the two differ by more than their seeds do."""
    rewards = {peer: curves(lines, peer, "reward") for peer in PEERS}
    steps = min(values.shape[1] for values in rewards.values())
    late = {peer: values[:, :steps][:, -LATE:].mean(axis=1) for peer, values in rewards.items()}
    first = {peer: values[:, 0].mean() for peer, values in rewards.items()}
    said = [
        f"{name} {', '.join(f'{x:.3f}' for x in late[peer])}" for peer, name in (("r1jax", "r1jax"), ("trl", "TRL"))
    ]
    difference = late["r1jax"].mean() - late["trl"].mean()
    error = float(np.sqrt(sum(x.var(ddof=1) / len(x) for x in late.values())))
    verdict = "within" if abs(difference) <= 2 * error else "beyond"
    return (
        f"Mean reward of the last {LATE} of {steps} steps, seed by seed: {'; '.join(said)}; of the first step, over "
        f"seeds: r1jax {first['r1jax']:.3f}, TRL {first['trl']:.3f}. The former differ by {difference:+.3f} in their "
        f"means, whose standard error by the seeds' spread is {error:.3f}: {verdict} twice that."
    )


def figure(lines: list[Line], path: str | Path, alone: Sequence[int] = job.SEEDS) -> None:
    """Reward and seconds against the step: the seeds' mean, and their range as a band; seconds of the seeds `alone`."""
    quiet = [line for line in lines if line.get("seed") in alone]
    plt.rcParams["svg.hashsalt"] = "job"
    canvas, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for peer, colour in PEERS.items():
        for axis, key in zip(axes, ("reward", "seconds"), strict=True):
            values = curves(quiet if key == "seconds" else lines, peer, key)
            steps = np.arange(1, values.shape[1] + 1)
            axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, lw=0)
            axis.plot(steps, values.mean(axis=0), color=colour, label={"trl": "TRL"}.get(peer, peer))
    axes[0].set(xlabel="step", ylabel="mean reward")
    axes[1].set(xlabel="step", ylabel="seconds a step", yscale="log")
    axes[0].legend(frameon=False, loc="lower right")
    for axis in axes:
        axis.grid(alpha=0.25)
    canvas.savefig(path, metadata={"Date": None})
    plt.close(canvas)


def _row(title: str, ours: list[float], theirs: list[float]) -> str:
    ratio = statistics.median(theirs) / statistics.median(ours)
    return f"| {title} | {_show(ours)} | {_show(theirs)} | {ratio:.2f}× |"


def _show(values: list[float]) -> str:
    median, least, most = (
        f"{x:.0f}" if x >= 100 else f"{x:.3g}" for x in (statistics.median(values), min(values), max(values))
    )
    return f"{median} ({least}–{most})"


def _checks(lines: list[Line]) -> list[str]:
    """What TRL's side found of the exported policy on one batch of r1jax's."""
    return [
        f"One batch of r1jax's completions ({x['tokens']} tokens), in transformers with the exported files: prompts "
        f"are {'the same' if x['same_prompt_ids'] else 'OTHER'} tokens, log-probabilities agree within "
        f"{x['logp_difference']:.1g}, rewards within {x['reward_difference']:.1g}. Given the same log-probabilities of "
        f"an old policy and of a reference, made up so that {x['clip_fraction'][0]:.1%} of the tokens' ratios are "
        f"clipped, the loss is {x['loss'][0]:.7f} in TRL and {x['loss'][1]:.7f} in r1jax, the norm of its gradient "
        f"{x['grad_norm'][0]:.6f} and {x['grad_norm'][1]:.6f}."
        for x in lines
        if x["measure"] == "check"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lines", type=Path)
    parser.add_argument("--figure", type=Path, required=True)
    parser.add_argument("--alone", type=int, nargs="+", default=list(job.SEEDS), help="seeds that nothing ran beside")
    parser.add_argument("--note", default="", help="what else is to be known of this run, as a paragraph")
    parser.add_argument("--policy", default="1.3M parameters, 0.65M active a token", help="what the base is")
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.lines.read_text(encoding="utf-8").splitlines()]
    figure(lines, args.figure, args.alone)
    print("\n\n".join(filter(None, [section(lines, args.policy, args.figure.name, args.alone), args.note])))


if __name__ == "__main__":
    main()
