"""The paper's findings, measured on runs of the whole recipe: a table, and with --write the page docs/findings.md.

python experiments/r1/findings.py runs/r1-0 runs/r1-1 --write=docs/findings.md
python experiments/r1/findings.py runs/r1-0 runs/r1-1 --only=F3,F7

Most figures come from evaluation.jsonl and metrics.jsonl; F6, F8 and F9 open checkpoints, F8 for some minutes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # `experiments` is not installed with r1jax

from experiments.r1 import page, pictures, probes, records  # noqa: E402
from experiments.r1.claims import FINDINGS  # noqa: E402

PICTURES = {
    "ladder": "Accuracy stage by stage",
    "length": "Length over R1-Zero's steps",
    "budget": "Budgets of thinking",
}


def measure(runs: Sequence[records.Recipe], keys: Sequence[str]) -> list[page.Result]:
    """Each finding over the runs; one that a run lacks the records for says so."""
    results = []
    for finding in FINDINGS:
        if finding.key in keys:
            try:
                rows = tuple(tuple(finding.rows(run)) for run in runs)
                results.append(page.Result(finding.key, finding.title, same(rows), ""))
            except records.MissingError as error:
                results.append(page.Result(finding.key, finding.title, (), str(error)))
    return results


def same(rows: tuple) -> tuple:
    """The rows that all runs have, in the first one's order."""
    shared = [row.name for row in rows[0] if all(row.name in [other.name for other in own] for own in rows)]
    return tuple(tuple(row for row in own if row.name in shared) for own in rows)


def read_notes(path: Path) -> dict[str, str]:
    """What is to be said of a finding, by its key: the sections '## F1' of a Markdown file."""
    parts = re.split(r"^## (F\d)\s*$", path.read_text("utf-8"), flags=re.MULTILINE) if path.is_file() else [""]
    return {key: note.strip() for key, note in zip(parts[1::2], parts[2::2], strict=True) if note.strip()}


def write(path: Path, results: Sequence[page.Result], runs: Sequence[records.Recipe], folders: Sequence[str]) -> None:
    """The page, and its pictures in a folder beside it."""
    drawn = {name: getattr(pictures, name)(runs) for name in PICTURES}
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    shown = {}
    for name, svg in drawn.items():
        if svg is not None:
            (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
            shown[f"{folder.name}/{name}.svg"] = PICTURES[name]
    intro = (HERE / "intro.md").read_text("utf-8")
    notes = read_notes(HERE / "notes.md")
    path.write_text(page.page(results, [run.seed for run in runs], folders, intro, notes, shown), encoding="utf-8")


def main() -> None:
    known = [finding.key for finding in FINDINGS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="workdirs of configs/r1_tiny.py, one a seed")
    parser.add_argument("--only", default=",".join(known), help="findings, comma-separated")
    parser.add_argument("--write", type=Path, help="the page to write; needs all findings")
    given = parser.parse_args()
    keys = given.only.split(",")
    unknown = sorted(set(keys) - set(known))
    if unknown:
        parser.error(f"--only names {unknown[0]!r}; expected some of {','.join(known)}")
    if given.write and set(keys) != set(known):
        parser.error("--write and --only exclude each other: a page has all findings")
    try:
        runs = [records.read(Path(folder)) for folder in given.runs]
    except ValueError as error:
        parser.error(str(error))
    for run, folder in zip(runs, given.runs, strict=True):
        probes.fill(run, Path(folder), frozenset(keys))
    results = measure(runs, keys)
    print(page.text(results, [run.seed for run in runs]))
    if given.write:
        write(given.write, results, runs, given.runs)


if __name__ == "__main__":
    main()
