"""The run of a stage that makes a dataset: shards of candidates, then the selection among all of them.

Any number of runs of the same config may share a workdir; each is one process, or several joined by `processes`, which
go through the same shards together. Runs know of each other by the names of files alone. A shard is claimed by a file,
so that others take other shards; claims are hints, not locks: a run that finds no unclaimed shard any more takes the
claimed ones, for whoever claimed them may be dead. Work done twice gives the same file, which is there whole or not at
all.
"""

from __future__ import annotations

import collections
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from r1jax import processes
from r1jax.config import DatasetStage, JoinConfig, SourceSpec
from r1jax.data import tasks
from r1jax.data.dataset import DROPPED, KEPT, Sample, read_file, shard_path, write_dataset, write_file
from r1jax.data.records import Source
from r1jax.mesh import make_mesh
from r1jax.rewards.compose import Rewards, load_rewards
from r1jax.rewards.filters import check_clean
from r1jax.stages import graders, workdir
from r1jax.stages.candidates import Asked, Asker, Way
from r1jax.stages.groups import columns
from r1jax.stages.inference import seeds
from r1jax.stages.run import locate
from r1jax.stages.selection import HELD_OUT, HeldOut, select
from r1jax.stages.tables import table
from r1jax.training.metrics import METRICS, append_jsonl, progress

CANDIDATES = "candidates"
JOIN_SEEDS = 6  # purpose of the draw among joined records
NO_JOIN = JoinConfig({}, 0.0)


class Inputs(NamedTuple):
    """What a config names, opened and checked. `rewards` is to be closed."""

    mesh: Mesh
    sources: dict[str, Source]
    joined: dict[str, Source]
    held_out: HeldOut
    rewards: Rewards


def open_inputs(
    config: DatasetStage, join: JoinConfig, services: graders.Makers, folders: Mapping[str, str], *, awaited: bool
) -> Inputs:
    """Raises ValueError where the config, a reward function or the data are bad."""
    check_clean(config.selection.filters)
    mesh = make_mesh(config.mesh)
    rewards = load_rewards(config.rewards, config.grading, services)
    try:
        sources = {
            name: _load(config, spec) for name, spec in locate(config.data.sources, folders, awaited=awaited).items()
        }
        joined = {name: _load(config, spec) for name, spec in locate(join.sources, folders, awaited=awaited).items()}
        for name, source in joined.items():
            if "completion" not in source[0]:
                raise ValueError(f"join.sources.{name} gives records without a completion; expected replies to learn")
        for name, source in sources.items():
            for warning in rewards.check(columns([source[i] for i in range(_count(config, source))])):
                processes.say(f"warning: {name}: {warning}")
        return Inputs(mesh, sources, joined, _held_out(config), rewards)
    except Exception:
        rewards.close()
        raise


def collect(
    config: DatasetStage, join: JoinConfig, ways: Sequence[Way], inputs: Inputs, folder: str
) -> dict[str, dict[str, int]]:
    """Makes the dataset in `folder`, or what is left of it to make; returns the counts of each source."""
    prompts = list(ask(config, inputs.sources))
    asker = Asker(config, ways, inputs.mesh, inputs.rewards, inputs.held_out)
    asker.check(prompts)
    workdir.begin(folder, config, None)
    done = processes.agreed(lambda: sum(path.exists() for path in _paths(config, folder)))
    with progress(config.shards, done, Path(folder).resolve().name) as bar:
        shards = _unfinished(config, folder)
        for path, shard in iter(lambda: processes.agreed(lambda: next(shards, None)), None):
            samples = asker(prompts[shard :: config.shards])
            if processes.is_first():
                write_file(path, samples)
            else:  # sampled and graded together, written once
                collections.deque(samples, maxlen=0)
            bar.update(1)
            if processes.leaving():
                raise processes.Preempted(f"{Path(folder).resolve().name}: told to stop; its finished shards are kept")
    result = processes.agreed(lambda: assemble(config, join, inputs, folder))
    workdir.write_result(folder, result)
    processes.say("\n" + table({Path(folder).resolve().name: result}))
    return result


def ask(config: DatasetStage, sources: Mapping[str, Source]) -> Iterator[Asked]:
    """The prompts of a run, numbered through all sources."""
    number = 0
    for name, source in sources.items():
        for index in range(_count(config, source)):
            yield Asked(number, name, index, source[index])
            number += 1


def assemble(config: DatasetStage, join: JoinConfig, inputs: Inputs, folder: str) -> dict[str, dict[str, int]]:
    """Selects among the candidates of all shards, joins general records, writes the datasets and the counts."""
    shards = [read_file(path) for path in _paths(config, folder)]
    order = {name: at for at, name in enumerate(inputs.sources)}
    fit = [sample for shard in shards for sample in shard if not sample["filter"]]
    fit.sort(key=lambda s: (order[s["source"]], int(s["index"]), int(s["sample"])))
    drops = {_key(sample): drop for sample, drop in zip(fit, select(fit, config.selection), strict=True)}
    shards = [[s | {"filter": s["filter"] or drops[_key(s)]} for s in shard] for shard in shards]
    kept = [sample for sample in fit if not drops[_key(sample)]]
    joined = list(_joined(config, join, inputs, len(kept)))
    every = [sample for shard in shards for sample in shard] + joined
    root = Path(folder)
    write_dataset(root / KEPT, kept + [sample for sample in joined if not sample["filter"]], config.shards)
    write_dataset(root / DROPPED, [sample for sample in every if sample["filter"]], config.shards)
    _write_metrics(root / METRICS, shards)
    sources = [*inputs.sources, *inputs.joined]
    return {name: counts([sample for sample in every if sample["source"] == name]) for name in sources}


def counts(samples: Sequence[Sample]) -> dict[str, int]:
    """{"n": all of them, "kept", and how many each filter dropped}."""
    drops = Counter(sample["filter"] for sample in samples)
    dropped = {f"dropped/{name}": drops[name] for name in sorted(drops) if name}
    return {"n": len(samples), "kept": drops[""]} | dropped


def _joined(config: DatasetStage, join: JoinConfig, inputs: Inputs, kept: int) -> Iterator[Sample]:
    """Records of the joined sources by their weights, as many to each kept sample as the ratio says, none twice."""
    wanted, total = round(join.ratio * kept), sum(spec.weight for spec in join.sources.values())
    weight = 0.0
    for at, (name, source) in enumerate(inputs.joined.items()):
        first = round(wanted * weight / total)
        weight += join.sources[name].weight
        share = round(wanted * weight / total) - first
        if share > len(source):
            processes.say(f"warning: {name} has {len(source)} records, of which {share} were to be joined")
        draw = np.random.default_rng(seeds(config.seed, 1, JOIN_SEEDS, at))
        for index in draw.permutation(len(source))[:share].tolist():
            record = source[index]
            sample = {"template": config.template} | record | {"source": name, "way": "joined", "index": str(index)}
            yield sample | {"filter": HELD_OUT if inputs.held_out.overlaps(sample) else ""}


def _write_metrics(path: Path, shards: Sequence[Sequence[Sample]]) -> None:
    """A line a shard, written as a whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    rows = []
    for shard, samples in enumerate(shards):
        figures = {f"samples/{name}": count for name, count in counts(samples).items()}
        rewards = [float(sample["reward"]) for sample in samples]
        rows.append({"step": shard + 1, "reward/mean": float(np.mean(rewards)) if rewards else None, **figures})
    temporary.unlink(missing_ok=True)
    append_jsonl(temporary, rows)
    os.replace(temporary, path)


def _unfinished(config: DatasetStage, folder: str) -> Iterator[tuple[Path, int]]:
    """The shards still to make: first those that nobody has claimed, then those whose claim may be a dead one's."""
    paths = _paths(config, folder)
    claimed = []
    for shard, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            continue
        try:
            path.with_suffix(".claim").touch(exist_ok=False)
        except FileExistsError:
            claimed.append(shard)
            continue
        yield path, shard
    for shard in claimed:
        if not paths[shard].exists():
            yield paths[shard], shard


def _paths(config: DatasetStage, folder: str) -> list[Path]:
    return [shard_path(Path(folder) / CANDIDATES, shard, config.shards) for shard in range(config.shards)]


def _key(sample: Sample) -> tuple[str, str, str]:
    return sample["source"], sample["index"], sample["sample"]


def _load(config: DatasetStage, spec: SourceSpec) -> Source:
    data = config.data
    return tasks.load(spec.name, "train", data_dir=data.data_dir, source_dir=data.source_dir, kwargs=spec.kwargs)


def _held_out(config: DatasetStage) -> HeldOut:
    questions: list[str] = []
    for spec in config.selection.held_out.values():
        name, split = tasks.parse_name(spec.name)
        data = config.data
        source = tasks.load(name, split, data_dir=data.data_dir, source_dir=data.source_dir, kwargs=spec.kwargs)
        questions += [source[i]["question"] for i in range(len(source))]
    return HeldOut(questions, config.selection.held_out_ngram)


def _count(config: DatasetStage, source: Source) -> int:
    return min(len(source), config.limit) if config.limit else len(source)
