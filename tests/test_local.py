"""tpu_scripts/local.sh: real processes on one machine, and what becomes of a run when one of them dies."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import smoke_run

import r1jax
from r1jax.data.dataset import DROPPED, read_dataset

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tpu_scripts" / "local.sh"
CONFIG = ROOT / "tests" / "several_processes_config.py"
# Costly optimisations are left out, as in conftest.py; how many devices there are, the script says.
FLAGS = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
ENVIRONMENT = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "XLA_FLAGS": FLAGS}
STOPS_WITHIN_S = 60


def script(*words: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([SCRIPT, *words], env=ENVIRONMENT, capture_output=True, text=True, cwd=ROOT)


def started(count: int, workdir: Path, *flags: str, devices: int = 1) -> subprocess.Popen:
    return subprocess.Popen(
        [SCRIPT, f"--devices={devices}", str(count), f"--config={CONFIG}", f"--workdir={workdir}", *data(), *flags],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip


def data() -> list[str]:
    return [f"--config.stages.{name}.data.data_dir={smoke_run.DATA_DIR}" for name in ("base", "zero", "made")]


def run(count: int, workdir: Path, *flags: str, devices: int = 1) -> dict:
    said, complaint = (process := started(count, workdir, *flags, devices=devices)).communicate()
    assert process.returncode == 0, complaint
    assert said.count("\n") == 1, "one process alone writes the result"
    return json.loads(said)


def figures(workdir: Path, stage: str) -> list[dict]:
    return [smoke_run.untimed(row) for row in smoke_run.rows(workdir / stage / "metrics.jsonl")]


def same(one: Path, other: Path) -> None:
    """The metrics of both stages to 1e-5, and the same text."""
    for stage in ("base", "zero"):
        rows, others = figures(one, stage), figures(other, stage)
        assert len(rows) == len(others) == 3
        for row, expected in zip(rows, others, strict=True):
            assert row == pytest.approx(expected, rel=1e-5, abs=1e-5)
        first, second = (smoke_run.rows(folder / stage / "evaluation.jsonl") for folder in (one, other))
        assert first == second
    texts = [
        [row["completion"] for row in smoke_run.rows(folder / "zero" / "samples.jsonl")] for folder in (one, other)
    ]
    assert texts[0] == texts[1]
    assert dataset(one) == dataset(other)


def dataset(workdir: Path) -> list[dict]:
    """What the last stage made, kept and dropped, but for where its checkpoint was."""
    rows = [*read_dataset(workdir / "made"), *read_dataset(workdir / "made", DROPPED)]
    assert len(rows) >= 32
    return [row | {"checkpoint": ""} for row in rows]


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)


def pids(process: subprocess.Popen) -> list[int]:
    """Of the Python processes that a script has started, by their numbers."""
    listed = subprocess.run(["ps", "-eww", "-o", "sid=,pid=,args="], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    mine = [(int(pid), words) for sid, pid, words in rows if int(sid) == process.pid and "--process=" in words]
    return [pid for pid, _ in sorted(mine, key=lambda row: row[1].rsplit("--process=")[1])]


def test_a_dry_run_prints_what_would_be_run(tmp_path):
    done = script("--dry-run", "--devices=2", "--port=8476", "3", "--config=a.py", "--workdir=a; b", "--config.x='1'")
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3
    for number, words in enumerate(lines):
        assert words[:2] == ["env", "JAX_PLATFORMS=cpu"]
        assert words[2] == f"XLA_FLAGS={FLAGS} --xla_force_host_platform_device_count=2"
        assert words[3:6] == [sys.executable, "-m", "r1jax.main"]
        assert words[6:9] == ["--config=a.py", "--workdir=a; b", "--config.x='1'"]
        assert words[9:] == ["--coordinator=127.0.0.1:8476", "--processes=3", f"--process={number}"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "N is ''; expected a number of processes"),
        (["0", "--config=a"], "N is '0'"),
        (["--config=a", "2"], "unknown option '--config=a'"),
        (["2"], "no --config"),
        (["--devices=none", "2", "--config=a"], "--devices is 'none'"),
    ],
)
def test_bad_words_are_refused(words, message):
    done = script(*words)
    assert done.returncode == 2 and message in done.stderr and not done.stdout


def test_every_process_refuses_a_bad_config(tmp_path):
    done = script("2", f"--config={CONFIG}", f"--workdir={tmp_path}/run", "--config.stages.zero.rollout.prompts=0")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("rollout.prompts is 0") == 2 and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """One process with four devices."""
    run(1, workdir := tmp_path_factory.mktemp("alone"), devices=4)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(("count", "devices"), [(2, 2), (4, 1)])
def test_several_processes_give_what_one_gives(count, devices, alone, tmp_path):
    result = run(count, tmp_path, devices=devices)
    same(tmp_path, alone)
    assert result["stages"] == json.loads((alone / "result.json").read_text())
    if count == 4:
        restored(tmp_path)


def restored(workdir: Path) -> None:
    """What four processes saved, one, two and eight devices go on from: in both stages, a step before the last."""
    wanted = r1jax.load(str(workdir / "zero")).params
    for devices in (1, 2, 8):
        copy = workdir.with_name(f"{workdir.name}-{devices}")
        subprocess.run(["cp", "-r", workdir, copy], check=True)
        for file in (copy / "result.json", copy / "zero" / "result.json"):
            file.unlink()
        subprocess.run(["rm", "-r", copy / "zero" / "checkpoints" / "3"], check=True)
        said = run(1, copy, devices=devices)  # the dataset is finished already, and left alone
        assert said["stages"]["zero"]["arithmetic:test"]["n"] == 8
        assert figures(copy, "zero")[:2] == figures(workdir, "zero")[:2]
        assert figures(copy, "zero")[2] == pytest.approx(figures(workdir, "zero")[2], rel=1e-5, abs=1e-5)
        got = r1jax.load(str(copy / "zero")).params
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), got, wanted)


@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.parametrize("victim", [0, 1])
def test_one_process_killed_the_rest_stop_and_a_restart_resumes(victim, alone, tmp_path):
    process = started(2, tmp_path, devices=2)
    wait_for(tmp_path / "zero" / "checkpoints" / "1", process)
    os.kill(pids(process)[victim], signal.SIGKILL)
    killed = time.monotonic()
    said, complaint = process.communicate(timeout=10 * STOPS_WITHIN_S)
    assert time.monotonic() - killed < STOPS_WITHIN_S
    assert process.returncode in (1, 134, 137) and not said, complaint
    assert f"process {victim} of 2 ended with exit code 137" in complaint
    assert re.search(r"lost another process|another task died", complaint)
    run(2, tmp_path, devices=2)
    same(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.longest
def test_a_notice_to_one_saves_and_ends_all_and_a_restart_goes_on(alone, tmp_path):
    process = started(2, tmp_path, "--config.stages.zero.checkpoint.every=100", devices=2)
    wait_for(tmp_path / "zero" / "config.json", process)
    os.kill(pids(process)[1], signal.SIGTERM)
    said, complaint = process.communicate()
    assert process.returncode == 143 and not said, complaint
    assert "zero: told to stop, and saved after step 1. The same command goes on from there." in complaint
    assert "Traceback" not in complaint
    assert [path.name for path in (tmp_path / "zero" / "checkpoints").iterdir()] == ["1"]
    run(4, tmp_path, "--config.stages.zero.checkpoint.every=100")  # and on other processes, too
    same(tmp_path, alone)
