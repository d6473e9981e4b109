"""Datasets of samples: whole or not there, read back as written, named as a source."""

import json

import pytest

from r1jax.data import dataset, tasks
from r1jax.data.dataset import DROPPED, KEPT, read_dataset, read_file, shard_path, write_dataset, write_file

SAMPLES = [{"question": f"{i}?", "completion": " ¿sí? \ud800 {\n" * i, "filter": ""} for i in range(5)]


def load(folder):
    return tasks.load(f"samples:{folder}", "train", data_dir="", source_dir="", kwargs={})


def test_written_and_read_over_shards(tmp_path):
    write_dataset(tmp_path / KEPT, SAMPLES, 3)
    write_dataset(tmp_path / DROPPED, [], 3)
    assert sorted(read_dataset(tmp_path), key=json.dumps) == sorted(
        (dict(sorted(s.items())) for s in SAMPLES), key=json.dumps
    )
    assert [len(read_file(shard_path(tmp_path / KEPT, i, 3))) for i in range(3)] == [2, 2, 1]
    assert len(read_dataset(tmp_path, DROPPED)) == 0
    assert [s["question"] for s in load(tmp_path)] == ["0?", "3?", "1?", "4?", "2?"]
    with pytest.raises(IndexError):
        read_dataset(tmp_path)[5]


def test_what_stands_is_left_and_what_fails_leaves_nothing(tmp_path):
    path = tmp_path / "one"
    write_file(path, SAMPLES[:2])
    write_file(path, SAMPLES)  # another process was first
    assert len(read_file(path)) == 2
    write_dataset(tmp_path / KEPT, SAMPLES[:2], 2)
    write_dataset(tmp_path / KEPT, SAMPLES, 2)
    assert len(read_dataset(tmp_path)) == 2

    def dying():
        yield SAMPLES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "two", dying())
    assert not (tmp_path / "two").exists()
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["one", KEPT]


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no samples; give the workdir of a finished stage"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"takes no parameters"):
        tasks.load("samples:x", "train", data_dir="", source_dir="", kwargs={"seed": 1})
    with pytest.raises(ValueError, match=r"expected one of 'train'"):
        tasks.load("samples:x", "test", data_dir="", source_dir="", kwargs={})
    assert tasks.parse_name("samples:runs/a.b:c") == ("samples:runs/a.b", "c")
    assert dataset.shard_path("f", 3, 8).name == "00003-of-00008.array_record"
