"""Whole lives of runs: tpu_scripts/ against a pretended cloud (fake_cloud.py), whose hosts run the real worker.sh."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENCE = 120  # seconds, on a machine that is busy with other things
ROOT = Path(__file__).resolve().parent.parent
AT = ["--project=my-project", "--zone=us-east5-a", "--name=r1"]
SLICE = ["--type=v5p-16", "--runtime=v2-alpha-tpuv5", "--poll=1"]
RUN = ["--config=c.py", "--workdir=bucket/my runs"]
# Stands for r1jax.main: says what it was given, then does as DO says, or as the file `do` in its home.
PROGRAM = """
import os, pathlib, signal, sys, time
home = pathlib.Path.home()
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
print("given", sys.argv[1:], flush=True)
do = (home / "do").read_text() if (home / "do").exists() else os.environ.get("DO", "0")
while do == "wait" and not told:
    time.sleep(0.02)
if told:
    print("saved", flush=True)
if do == "0":
    folder = pathlib.Path(next(word for word in sys.argv if word.startswith("--workdir=")).removeprefix("--workdir="))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text("{}")
sys.exit(0 if do == "wait" else int(do))
"""
# Stands for the hosts' python3: makes environments of this one, installs nothing.
PYTHON3 = f"""#!/bin/bash
if [[ "$*" == "-m uv venv"* ]]; then mkdir -p "${{@: -1}}/bin" && ln -s {sys.executable} "${{@: -1}}/bin/python"; fi
"""


class Cloud:
    """A repository with these scripts, and a cloud for it."""

    def __init__(self, folder: Path):
        self.folder, self.root = folder / "cloud", folder / "repository"
        (self.root / "r1jax").mkdir(parents=True)
        (self.root / "configs").mkdir()
        (self.root / "configs" / "c.py").touch()
        (self.root / "r1jax" / "__init__.py").touch()
        (self.root / "r1jax" / "main.py").write_text(PROGRAM)
        (self.root / "jax.py").write_text("__version__ = 'none'\n")
        shutil.copytree(ROOT / "tpu_scripts", self.root / "tpu_scripts")
        bin_ = folder / "bin"
        bin_.mkdir()
        self.folder.mkdir()
        self.env = {"PATH": f"{bin_}:/usr/bin:/bin", "FAKE_CLOUD": str(self.folder), "PYTHONPATH": "."}
        for name, text in (
            ("gcloud", f'#!/bin/sh\nexec {sys.executable} -S {ROOT}/tests/fake_cloud.py "$@"\n'),
            ("python3", PYTHON3),
        ):
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)
        who = {
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@b",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@b",
        }
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
            subprocess.run(["git", "-C", str(self.root), *words], env=self.env | who, check=True)

    def call(self, script: str, *words: str, **env: str):
        command = ["bash", str(self.root / "tpu_scripts" / f"{script}.sh"), *AT, *words]
        return subprocess.run(command, env=self.env | env, capture_output=True, text=True, timeout=PATIENCE)

    def start(self, **env: str) -> None:
        for script, words in (("create", SLICE), ("setup", []), ("launch", RUN)):
            done = self.call(script, *words, **env)
            assert done.returncode == 0, done.stderr

    def hosts(self) -> list[Path]:
        return sorted((self.folder / "hosts" / "r1").iterdir())

    def states(self) -> list[str]:
        words = ["bash", "r1jax/tpu_scripts/worker.sh", "state", "r1"]
        return [
            subprocess.run(
                words, cwd=home, env=self.env | {"HOME": str(home)}, capture_output=True, text=True
            ).stdout.strip()
            for home in self.hosts()
        ]

    def wait(self, state: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.states() != [state] * len(self.hosts()):
            assert time.monotonic() < deadline, f"{self.states()}, and not {state}"
            time.sleep(0.05)

    def logs(self) -> list[str]:
        return [(home / "runs" / "r1.log").read_text() for home in self.hosts()]

    def wait_for_words(self, words: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not all(words in log for log in self.logs()):
            assert time.monotonic() < deadline, f"{self.logs()} lack {words!r}"
            time.sleep(0.05)

    def verbs(self) -> list[str]:
        """What was asked of the cloud: verbs, and of ssh the word after worker.sh."""
        calls = [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]
        asked = []
        for words in calls:
            command = next((word for word in words if word.startswith("--command=")), "")
            asked.append(command.split("worker.sh ")[1].split(" ")[0] if "worker.sh " in command else words[3])
        return asked


@pytest.fixture
def cloud(tmp_path):
    made = Cloud(tmp_path)
    yield made
    for file in (tmp_path / "cloud").rglob("runs/*.pid"):
        process = Path("/proc") / file.read_text().strip()
        if process.is_dir() and "r1jax.main" in (process / "cmdline").read_text():
            os.kill(int(process.name), signal.SIGKILL)


def test_a_run_is_started_on_every_host_stopped_and_gone_on_with(cloud):
    cloud.start(DO="wait")
    assert len(cloud.hosts()) == 2
    cloud.wait("running")
    cloud.wait_for_words("given ['--config=c.py', '--workdir=bucket/my runs']")
    again = cloud.call("launch", *RUN)
    assert again.returncode == 2 and "r1 runs already" in again.stderr
    stopped = cloud.call("stop")
    assert stopped.returncode == 0 and stopped.stdout.count("r1 has ended") == 2
    assert cloud.states() == ["exited 0"] * 2  # it has ended well, and is not finished
    assert all(log.endswith("saved\n") for log in cloud.logs())
    assert cloud.call("stop").stdout.count("r1 does not run") == 2
    assert cloud.call("launch", *RUN, "--", "--config.seed=1").returncode == 0
    cloud.wait("finished")
    assert all("'--config.seed=1'" in log for log in cloud.logs()), "the log goes on where it was"


def test_the_stream_of_a_log_ends_with_the_run(cloud):
    cloud.start(DO="wait")
    cloud.wait("running")
    command = ["bash", str(cloud.root / "tpu_scripts" / "logs.sh"), *AT]
    with subprocess.Popen(command, env=cloud.env, stdout=subprocess.PIPE, text=True) as stream:
        assert stream.stdout is not None and "given" in stream.stdout.readline()
        cloud.call("stop")
        assert stream.stdout.read() == "saved\n"
    assert cloud.call("logs", "--lines=1").stdout == "saved\n"


@pytest.mark.slow
def test_what_does_not_end_when_told_is_killed(cloud):
    (cloud.root / "r1jax" / "main.py").write_text(
        "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint(1, flush=True)\ntime.sleep(60)\n"
    )
    subprocess.run(
        ["git", "-C", str(cloud.root), "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "deaf"],
        check=True,
    )
    cloud.start()
    cloud.wait("running")
    cloud.wait_for_words("1")
    done = cloud.call("stop", "--wait=1")
    assert done.returncode == 0 and done.stdout.count("was killed; its last whole checkpoint stands") == 2
    cloud.wait("exited 137")


@pytest.mark.slow
def test_setup_leaves_the_bucket_and_takes_away_old_code(cloud):
    cloud.start()
    cloud.wait("finished")
    code = cloud.hosts()[0] / "r1jax"
    (code / "r1jax" / "old.py").touch()
    assert cloud.call("setup").returncode == 0
    assert not (code / "r1jax" / "old.py").exists() and (code / "bucket" / "my runs" / "result.json").exists()


def restart(cloud: Cloud, **env: str):
    """restart.sh, in the background, and its output when it has ended."""
    command = [
        "bash",
        str(cloud.root / "tpu_scripts" / "restart.sh"),
        *AT,
        *SLICE,
        *RUN,
        "--bucket=my-bucket",
        "--attempts=3",
    ]
    return subprocess.Popen(command, env=cloud.env | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def mounted(cloud):
    """The cloud's hosts have gcsfuse and mountpoint, which do nothing."""
    bin_ = cloud.folder.parent / "bin"
    for name in ("gcsfuse", "mountpoint"):
        (bin_ / name).write_text("#!/bin/sh\n")
        (bin_ / name).chmod(0o755)
    return cloud


def test_a_slice_taken_back_is_asked_for_anew_and_the_run_goes_on(mounted):
    cloud = mounted
    cloud.start(DO="wait")
    cloud.wait("running")
    watch = restart(cloud)
    (cloud.folder / "state").write_text("SUSPENDED")  # whatever restart.sh has seen until now
    out, _ = watch.communicate(timeout=PATIENCE)
    assert watch.returncode == 0, out
    assert "r1: SUSPENDED" in out and out.endswith("r1: finished\n")
    verbs = cloud.verbs()
    assert [verb for verb in verbs if verb in ("create", "delete", "install", "start")] == [
        "create", "install", "start", "delete", "create", "install", "start",
    ]  # fmt: skip


@pytest.mark.slow
def test_from_nothing_to_a_finished_run(mounted):
    out, _ = (watch := restart(mounted)).communicate(timeout=PATIENCE)
    assert watch.returncode == 0 and "r1: GONE" in out and out.endswith("r1: finished\n")
    assert [verb for verb in mounted.verbs() if verb in ("create", "delete", "install", "start")] == [
        "create", "install", "start",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_run_that_ends_too_early_is_launched_again_and_not_for_ever(mounted):
    cloud = mounted
    cloud.start(DO="1")
    cloud.wait("exited 1")
    watch = restart(cloud, DO="1")
    out, _ = watch.communicate(timeout=PATIENCE)
    assert watch.returncode == 1 and "r1 ended too early 3 times" in out
    assert cloud.verbs().count("start") == 3 and cloud.verbs().count("create") == 1


def test_a_run_refused_as_bad_input_is_not_launched_again(mounted):
    mounted.start(DO="2")
    mounted.wait("exited 2")
    watch = restart(mounted)
    out, _ = watch.communicate(timeout=PATIENCE)
    assert watch.returncode == 2 and "bad input" in out and mounted.verbs().count("start") == 1


@pytest.mark.slow
def test_a_host_that_cannot_be_reached_is_asked_again(mounted):
    mounted.start()
    mounted.wait("finished")
    (mounted.folder / "fails").write_text("2")
    watch = restart(mounted)
    out, _ = watch.communicate(timeout=PATIENCE)
    assert watch.returncode == 0 and out == "r1: finished\n"
    assert mounted.verbs().count("state") == 3 and mounted.verbs().count("start") == 1


def test_create_says_what_became_of_a_request_that_failed(cloud):
    (cloud.folder / "bin").mkdir()
    gcloud = cloud.folder / "bin" / "gcloud"
    gcloud.write_text('#!/bin/sh\ncase "$4" in describe) echo FAILED ;; esac\n')
    gcloud.chmod(0o755)
    done = cloud.call("create", *SLICE, PATH=f"{gcloud.parent}:/usr/bin:/bin")
    assert done.returncode == 1 and "error: r1 is FAILED; see why with: gcloud compute tpus" in done.stderr


@pytest.mark.parametrize(("send", "again"), [(None, False), (signal.SIGUSR1, True)])
def test_a_slurm_job_near_its_limit_saves_and_is_queued_again(send, again, tmp_path):
    for name, text in (
        ("srun", f'#!/bin/sh\nshift\nexec {sys.executable} -c "$1"\n'),
        ("scontrol", f'#!/bin/sh\necho "$@" > {tmp_path}/requeued\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    ready = tmp_path / "ready"
    program = f"""
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
pathlib.Path({str(ready)!r}).touch()
time.sleep({30 if again else 0})
sys.exit(5)
"""
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "77"}
    with subprocess.Popen(["bash", str(ROOT / "tpu_scripts" / "slurm_job.sh"), program], env=env) as job:
        while not ready.exists():
            time.sleep(0.02)
        if send is not None:
            job.send_signal(send)
        assert job.wait(timeout=PATIENCE) == (3 if again else 5)
    assert (tmp_path / "requeued").exists() == again
    assert not again or (tmp_path / "requeued").read_text() == "requeue 77\n"
