"""A stage's folder: what makes it trusted, and what is refused."""

import json

import pytest
import smoke_run

from r1jax.data.tokenizer import Tokenizer
from r1jax.stages import workdir


@pytest.fixture(scope="module")
def config():
    return smoke_run.stage("base")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(smoke_run.finished() / "base")


def test_a_look_writes_nothing(tmp_path, config):
    assert not workdir.has_begun(str(tmp_path / "new"), config)
    assert not (tmp_path / "new").exists()


def test_begun_with_this_config_and_no_other(tmp_path, config, tokenizer):
    workdir.begin(str(tmp_path), config, tokenizer)
    assert workdir.has_begun(str(tmp_path), config)
    assert workdir.read_config(str(tmp_path)) == config
    assert workdir.read_result(str(tmp_path)) is None
    other = smoke_run.stage("base", **{"optimizer.lr": 0.5, "steps": 9})
    with pytest.raises(ValueError, match=r"config\.optimizer\.lr was [0-9.e-]+, is 0\.5; config\.steps was 4, is 9"):
        workdir.has_begun(str(tmp_path), other)


def test_a_run_may_go_on_on_another_mesh(tmp_path, config, tokenizer):
    workdir.begin(str(tmp_path), config, tokenizer)
    other = smoke_run.stage("base", **{"mesh.data": 1, "mesh.fsdp": -1})
    assert other != config and workdir.has_begun(str(tmp_path), other)
    assert workdir.read_config(str(tmp_path)) == config  # what is recorded is how it began
    assert workdir.state(str(tmp_path), other) == (True, None)


def test_the_config_is_written_last(tmp_path, config):
    """A kill while the tokenizer is saved leaves a folder that the next run starts afresh in."""

    class Dying:
        def save(self, directory):
            raise smoke_run.Killed

    with pytest.raises(smoke_run.Killed):
        workdir.begin(str(tmp_path), config, Dying())
    assert not workdir.has_begun(str(tmp_path), config)


def test_what_is_no_workdir_is_refused(tmp_path, config):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="a file; give a folder"):
        workdir.has_begun(str(tmp_path / "file"), config)
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds checkpoints but no config\.json"):
        workdir.has_begun(str(tmp_path), config)
    with pytest.raises(ValueError, match=r"holds no config\.json.*with the stage's name added"):
        workdir.read_config(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"stage": "sft"', r"config\.json cannot be read"),
        ("[1, 2]", r"config\.json is list; expected"),
        ("[" * 100_000, r"config\.json cannot be read"),
        ('{"stage": "sftt"}', r"config\.json is not a stage's config: .*did you mean 'sft'"),
        ('{"stage": "sft"}', r"config lacks seed, steps"),
        ("\xff\xfe", r"config\.json"),
    ],
)
def test_a_damaged_config_is_named(tmp_path, config, text, message):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        workdir.has_begun(str(tmp_path), config)


def test_result_is_read_back_or_named(tmp_path):
    workdir.write_result(str(tmp_path), {"a:test": {"n": 3}})
    assert workdir.read_result(str(tmp_path)) == {"a:test": {"n": 3}}
    for text in ('{"a', "[1]"):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(ValueError, match=r"result\.json.*delete it and run again"):
            workdir.read_result(str(tmp_path))


def test_finished_folder_holds_what_opens_it():
    folder = smoke_run.finished() / "zero"
    config = json.loads((folder / "config.json").read_text())
    assert config["stage"] == "rl" and config["init_from"] == "base"  # the stage's name: the folder may move
    assert (folder / "tokenizer.model").exists() and [p.name for p in (folder / "checkpoints").iterdir()] == ["4"]
