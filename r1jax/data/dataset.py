"""Datasets that a stage makes: samples with their provenance, in ArrayRecord files that are whole or not there.

A record is a JSON object whose values are all strings: the fields of the task record that it answers, and

    template      the template that SFT prompts it in
    completion    the text to learn
    prompt        what was sampled from
    raw, rewritten  what came, where it was rewritten, and by what: rules | model
    source        the entry of `data.sources` it is from, or of those it is joined with
    way           how it was made: sampled, joined, or as a cold start names its ways
    index, sample which record of the source, and which of its samples
    checkpoint, step, seed      what sampled it
    rewards, reward             by name, as JSON; and their weighted sum
    filter        what turned it down: empty in a dataset to learn from, and never empty among what was dropped
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

Sample = dict[str, str]

KEPT, DROPPED = "samples", "dropped"  # the folders of a finished stage
_OPTIONS = "group_size:1"  # each record is read alone


class Samples:
    """A `Source` over files, in their order."""

    def __init__(self, paths: Sequence[Path]):
        self._source = ArrayRecordDataSource([str(path) for path in paths])

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return json.loads(self._source[index])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def shard_path(folder: str | os.PathLike, shard: int, shards: int) -> Path:
    return Path(folder) / f"{shard:05d}-of-{shards:05d}.array_record"


def write_file(path: Path, samples: Iterable[Sample]) -> None:
    """Writes a file that is there whole or not at all. One that stands already is left as it is.

    Two processes may make the same file; the contents do not depend on which of them is first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer = ArrayRecordWriter(str(temporary), _OPTIONS)
    for sample in samples:
        writer.write(json.dumps(sample, sort_keys=True).encode())  # in ASCII, which carries any text
    writer.close()
    if path.exists():
        temporary.unlink()
    else:
        os.replace(temporary, path)


def read_file(path: Path) -> list[Sample]:
    return list(Samples([path]))


def write_dataset(folder: Path, samples: Sequence[Sample], shards: int) -> None:
    """Writes `samples` over `shards` files in a new folder, which is there with all of them or not at all."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    for shard in range(shards):
        write_file(shard_path(temporary, shard, shards), samples[shard::shards])
    try:
        os.rename(temporary, folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(temporary)  # another process was first, with the same records


def read_dataset(folder: str | os.PathLike, kind: str = KEPT) -> Samples:
    """The records that a stage has made.

    Args:
      folder: of a finished stage.
      kind: those to learn from (`KEPT`), or those it turned down (`DROPPED`).

    Raises:
      ValueError: there is no such dataset.
    """
    paths = sorted((Path(folder) / kind).glob("*.array_record"))
    if not paths:
        raise ValueError(
            f"{folder} holds no {kind}; give the workdir of a finished stage that makes a dataset (rejection or "
            "cold_start), in a pipeline its name"
        )
    return Samples(paths)
