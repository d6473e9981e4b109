"""A killed and resumed run's records equal an uninterrupted run's."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from r1jax.training.metrics import RunLog, append_jsonl, hidden, progress, read_jsonl, show, truncate_jsonl

ROOT = Path(__file__).resolve().parent.parent


def run(workdir: Path, first: int, last: int, resume_step: int) -> None:
    log = RunLog(workdir, resume_step=resume_step)
    for step in range(first, last + 1):
        log.write(step, {"loss": 1 / step, "reward/mean": step})
        log.samples(step, [{"completion": f"text {step}\n\u2028 \ud800 <think>", "reward": 0.1}] * 2)
    log.close()


def contents(workdir: Path) -> tuple[bytes, bytes]:
    return (workdir / "metrics.jsonl").read_bytes(), (workdir / "samples.jsonl").read_bytes()


def test_resumed_files_equal_uninterrupted_ones(tmp_path):
    run(tmp_path / "whole", 1, 9, 0)
    run(tmp_path / "cut", 1, 6, 0)  # killed at step 6; the newest checkpoint is of step 4
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # and in the middle of a line
    run(tmp_path / "cut", 5, 9, 4)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert [row["step"] for row in read_jsonl(tmp_path / "cut" / "metrics.jsonl")] == list(range(1, 10))
    assert len(read_jsonl(tmp_path / "cut" / "samples.jsonl")) == 18


def test_a_fresh_start_empties_the_files(tmp_path):
    run(tmp_path, 1, 3, 0)
    run(tmp_path, 1, 1, 0)
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1]


def test_a_torn_line_is_dropped_even_where_it_parses(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2}')  # the newline itself was not written
    RunLog(tmp_path, resume_step=2).close()
    assert path.read_text() == '{"step": 1, "loss": 2.0}\n'


@pytest.mark.parametrize("bad", ['{"step": 2, "los', "not json", "[1, 2]", '{"loss": 1.0}', '{"step": "2"}'])
def test_a_malformed_line_in_the_middle_is_named(tmp_path, bad):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + bad + '\n{"step": 3}\n')
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 "):
        RunLog(tmp_path, resume_step=3)
    assert path.read_bytes() == before


def test_figures_that_are_not_finite_are_null(tmp_path):
    log = RunLog(tmp_path, resume_step=0)
    log.write(1, {"nan": math.nan, "inf": math.inf, "zero": 0.0})
    log.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=refuse) == {"step": 1, "nan": None, "inf": None, "zero": 0.0}


def test_every_line_is_on_disk_before_close(tmp_path):
    log = RunLog(tmp_path, resume_step=0)
    log.write(1, {"loss": 1.0})
    log.samples(1, [{"completion": "x"}])
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}]
    assert read_jsonl(tmp_path / "samples.jsonl") == [{"step": 1, "completion": "x"}]
    log.close()
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_progress_bar_goes_to_stderr_with_its_figures(capsys):
    bar = progress(10, 4, "rl")
    show(bar, {"reward": 0.56789})
    bar.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert "rl" in err and "5/10" in err and "reward 0.568" in err


def test_appending_and_cutting_back(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    truncate_jsonl(path, 5)
    assert not path.exists()
    append_jsonl(path, [{"step": 5}, {"step": 10}])
    append_jsonl(path, [{"step": 15}])
    truncate_jsonl(path, 10)
    assert read_jsonl(path) == [{"step": 5}, {"step": 10}]


def test_a_run_loads_no_torch():
    """It is there for tests alone, and would nearly double what a run takes to load."""
    program = "import sys, r1jax.training.metrics; assert 'torch' not in sys.modules; sys.exit(3)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 3


def test_a_hidden_module_is_there_again_afterwards(tmp_path, monkeypatch):
    (tmp_path / "seldom_seen.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError), hidden("seldom_seen"):
        importlib.import_module("seldom_seen")
    found = importlib.import_module("seldom_seen")
    with hidden("seldom_seen"):  # loaded already, it stays
        assert importlib.import_module("seldom_seen") is found
    del sys.modules["seldom_seen"]
