"""tpu_scripts/: dry runs, refusals, and quoting. Whole lives of runs are in test_tpu_scripts_lives.py."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "tpu_scripts"
WHERE = ["--project=my-project", "--zone=us-east5-a", "--name=r1"]
RUN = ["--config=configs/r1.py", "--workdir=bucket/runs/r1"]
SLICE = ["--type=v5p-2048", "--runtime=v2-alpha-tpuv5"]
GKE = ["--cluster=pods", "--image=docker.dev/p/r1jax", *RUN]
JOBSET = [*GKE, "--accelerator=tpu-v5p-slice", "--topology=4x4x8", "--bucket=my-bucket", "--service-account=trainer"]
SLURM = ["--name=r1", "--partition=gpu", "--nodes=4", "--time=24:00:00", *RUN]
HOSTILE = ["a b; touch pwned", "$(touch pwned)", "`touch pwned`", 'it\'s "quoted" \\ & |', "*", "", "--project=x"]
# Script -> what it needs to be given.
ARGUMENTS = {
    "create": [*WHERE, *SLICE, "--no-wait"],
    "setup": [*WHERE, "--bucket=my-bucket"],
    "launch": [*WHERE, *RUN],
    "logs": WHERE,
    "stop": WHERE,
    "delete": WHERE,
    "restart": [*WHERE, *SLICE, *RUN, "--bucket=my-bucket"],
    "jobset": [*WHERE, *JOBSET],
    "xpk": [*WHERE, *GKE, "--type=v5p-256", "--storage=disk"],
    "slurm": SLURM,
}
TPU = "gcloud compute tpus queued-resources"
WORKER = "r1jax/tpu_scripts/worker.sh"
AT = "--project=my-project --zone=us-east5-a"


def call(script: str, *words: str, path: Path | None = None, scripts: Path = SCRIPTS, **env: str):
    """Runs a script with nothing on PATH but the system's own programs and those of `path`."""
    base = {k: v for k, v in os.environ.items() if not k.startswith("R1JAX_")}
    base["PATH"] = ":".join([str(path)] * bool(path) + ["/usr/bin", "/bin"])
    return subprocess.run(
        ["bash", str(scripts / f"{script}.sh"), *words], env=base | env, capture_output=True, text=True, timeout=60
    )


def dry(script: str, *more: str, **options) -> str:
    done = call(script, *ARGUMENTS[script], "--dry-run", *more, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def recorders(tmp_path):
    """A folder of programs that write down their words, one JSON line a call, and do nothing; and that record."""
    folder, record = tmp_path / "bin", tmp_path / "record.jsonl"
    folder.mkdir()
    for name in ("gcloud", "kubectl", "xpk", "sbatch", "git"):
        code = "import json, sys; open(sys.argv[1], 'a').write(json.dumps(sys.argv[2:] + [sys.stdin.read()]) + '\\n')"
        reads = "" if name == "kubectl" else " </dev/null"
        file = folder / name
        file.write_text(f'#!/bin/sh\nexec {sys.executable} -S -c {shlex.quote(code)} {record} {name} "$@"{reads}\n')
        file.chmod(0o755)
    return folder, record


def taken(record: Path) -> list[list[str]]:
    lines = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    record.unlink(missing_ok=True)
    return lines


# --- What is printed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "more", "expected"),
    [
        (
            "create",
            ["--spot", "--slices=4", "--valid-for=6h"],
            f"{TPU} create r1 {AT} --accelerator-type=v5p-2048 --runtime-version=v2-alpha-tpuv5 --node-count=4 "
            "--node-prefix=r1 --spot --valid-until-duration=6h\n",
        ),
        (
            "launch",
            ["--", "--config.seed=1"],
            f"{TPU} ssh r1 {AT} --node=all --worker=all '--command=r1jax/tpu_scripts/worker.sh start r1 "
            "--config=configs/r1.py --workdir=bucket/runs/r1 --config.seed=1'\n",
        ),
        ("logs", ["--worker=3"], f"{TPU} ssh r1 {AT} --node=0 --worker=3 '--command={WORKER} log r1 100'\n"),
        ("stop", [], f"{TPU} ssh r1 {AT} --node=all --worker=all '--command={WORKER} stop r1 600'\n"),
        ("delete", [], f"{TPU} delete r1 {AT} --force --quiet\n"),
        (
            "xpk",
            [],
            f"xpk workload create {AT} --cluster=pods --workload=r1 --tpu-type=v5p-256 --num-slices=1 "
            "--docker-image=docker.dev/p/r1jax --storage=disk --max-restarts=10 --restart-on-user-code-failure "
            "--termination-grace-period-seconds=600 "
            "'--command=python -m r1jax.main --config=configs/r1.py --workdir=bucket/runs/r1'\n",
        ),
        (
            "slurm",
            ["--account=lab"],
            "sbatch --job-name=r1 --partition=gpu --account=lab --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 "
            "--cpus-per-task=8 --exclusive --time=24:00:00 --requeue --open-mode=append --output=r1.log "
            f"--signal=B:USR1@600 {SCRIPTS}/slurm_job.sh .venv/bin/python -m r1jax.main --config=configs/r1.py "
            "--workdir=bucket/runs/r1\n",
        ),
    ],
)  # fmt: skip
def test_a_dry_run_prints_the_exact_commands(script, more, expected):
    assert dry(script, *more) == expected


def test_a_dry_run_of_create_shows_the_wait():
    out = call("create", *WHERE, *SLICE, "--dry-run").stdout.splitlines()
    assert out[0].endswith("--node-id=r1")
    assert out[2] == f"{TPU} describe r1 {AT} '--format=value(state.state)'"


def test_a_dry_run_of_setup_copies_a_commit_and_installs_it():
    lines = [line for line in dry("setup").splitlines() if not line.startswith("#")]
    assert lines[0] == f"git -C {ROOT} archive --format=tar.gz --output=r1jax.tar.gz HEAD"
    assert lines[1] == f"{TPU} scp r1jax.tar.gz r1:r1jax.tar.gz {AT} --node=all --worker=all"
    assert "tar -xzf ../r1jax.tar.gz" in lines[2]
    assert lines[3].endswith("'--command=r1jax/tpu_scripts/worker.sh install my-bucket'") and len(lines) == 4


def test_a_dry_run_of_restart_is_made_of_those_of_the_others():
    out = dry("restart", "--spot", "--", "--config.seed=1")
    parts = [dry("delete"), call("create", *WHERE, *SLICE, "--spot", "--dry-run").stdout, dry("setup")]
    assert "".join(parts) in out
    assert out.count(dry("launch", "--", "--config.seed=1")) == 2
    assert "worker.sh state r1" in out and "worker.sh stop r1 120" in out


def manifest(*more: str) -> dict:
    return yaml.safe_load(dry("jobset", *more).split("<<'MANIFEST'\n")[1].removesuffix("MANIFEST\n"))


def test_the_manifest_is_that_of_the_slices():
    tree = manifest("--slices=2", "--spot", "--", "--config.seed=1")
    (job,) = tree["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert (tree["kind"], tree["metadata"]["name"], tree["spec"]["failurePolicy"]) == (
        "JobSet",
        "r1",
        {"maxRestarts": 10},
    )
    assert job["replicas"] == 2
    assert job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"] == 4 * 4 * 8 // 4
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x8",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["command"] + container["args"] == ["python", "-m", "r1jax.main", *RUN, "--config.seed=1"]
    assert container["resources"] == {"requests": {"google.com/tpu": 4}, "limits": {"google.com/tpu": 4}}
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "my-bucket"
    assert (
        "nodeSelector" in pod
        and "cloud.google.com/gke-spot"
        not in manifest()["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["nodeSelector"]
    )


def test_hostile_words_reach_the_container_as_they_are():
    words = [word for word in HOSTILE if word]
    args = manifest("--", *words)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0][
        "args"
    ]
    # Kubernetes reads $$( as $( and replaces no variable in it.
    assert [arg.replace("$$(", "$(") for arg in args[2:]] == words
    assert not any(re.search(r"(?<!\$)\$\(", arg) for arg in args)


@pytest.mark.parametrize("script", sorted(ARGUMENTS))
def test_help_names_every_option(script):
    done = call(script, "--help")
    assert done.returncode == 0 and "tpu_scripts/" in done.stdout
    text = (SCRIPTS / f"{script}.sh").read_text()
    options = " ".join(re.findall(r'^(?:OPTIONS|SWITCHES)="(.*)"$', text, re.MULTILINE)).split()
    shown = done.stdout + (call("create", "--help").stdout + call("setup", "--help").stdout) * (script == "restart")
    assert len(options) >= 3 and [option for option in [*options, "dry-run"] if f"--{option}" not in shown] == []


# --- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", sorted(ARGUMENTS))
@pytest.mark.parametrize("option", ["project", "zone", "name"])
def test_what_is_not_given_is_refused(script, option):
    if not any(word.startswith(f"--{option}=") for word in ARGUMENTS[script]):
        return
    for words in (
        [word for word in ARGUMENTS[script] if not word.startswith(f"--{option}=")],
        [f"--{option}=" if word.startswith(f"--{option}=") else word for word in ARGUMENTS[script]],
    ):
        done = call(script, *words, "--dry-run")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: no {option}; give --{option}=VALUE or set R1JAX_{option.upper()}\n"


def test_project_zone_and_name_are_taken_from_the_environment():
    environment = {"R1JAX_PROJECT": "my-project", "R1JAX_ZONE": "us-east5-a", "R1JAX_NAME": "r1"}
    assert call("delete", "--dry-run", **environment).stdout == dry("delete")
    assert call("delete", "--name=other", "--dry-run", **environment).stdout == dry("delete").replace(" r1 ", " other ")


@pytest.mark.parametrize("script", sorted(ARGUMENTS))
@pytest.mark.parametrize("name", ["a b", "r1;touch pwned", "$(touch pwned)", "--quiet", "a\nb", "-r1", "r" * 64])
def test_what_is_no_name_is_refused(script, name):
    words = [f"--name={name}" if word.startswith("--name=") else word for word in ARGUMENTS[script]]
    done = call(script, *words, "--dry-run")
    assert (done.returncode, done.stdout) == (2, "") and "--name is " in done.stderr


@pytest.mark.parametrize(
    ("script", "words", "complaint"),
    [
        ("delete", ["--zones=x"], "unknown option '--zones=x'"),
        ("delete", ["r2"], "unexpected word 'r2'"),
        ("delete", ["--project"], "--project has no value"),
        ("delete", ["--project=My Project"], "expected a project's id"),
        ("create", ["--spot", "--reserved"], "exclude each other"),
        ("create", ["--spot=yes"], "unknown option '--spot=yes'"),
        ("create", ["--slices=0"], "--slices is '0'; expected a positive whole number"),
        ("create", ["--slices=1+1"], "--slices is '1+1'"),
        ("logs", ["--worker=all"], "expected numbers from 0"),
        ("setup", ["--bucket=gs://b"], "without gs://"),
        ("setup", ["--ref=--help"], "expected a commit"),
        ("launch", ["--config="], "no config; give --config=VALUE"),
        ("jobset", ["--topology=4x4x"], "expected such as 4x4 or 8x8x16"),
        ("jobset", ["--topology=3x3"], "has 9 chips, which VMs of --chips=4 do not make up"),
        ("jobset", ["--", "a\nb"], "control character"),
        ("xpk", ["--name=" + "r" * 41], "XPK takes 40 at most"),
        ("slurm", ["--time=tomorrow"], "expected such as 24:00:00"),
    ],
)
def test_bad_input_is_refused_and_said(script, words, complaint):
    done = call(script, *ARGUMENTS[script], "--dry-run", *words)
    assert (done.returncode, done.stdout) == (2, "") and complaint in done.stderr


@pytest.mark.parametrize("script", sorted(ARGUMENTS))
def test_without_the_program_a_real_run_is_refused(script, tmp_path):
    (tmp_path / "bash").symlink_to("/bin/bash")
    for name in ("dirname", "env"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/bin/bash", str(SCRIPTS / f"{script}.sh"), *ARGUMENTS[script]],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and re.search(r"error: no (gcloud|xpk|sbatch) on PATH; ", done.stderr)


# --- What is run -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", sorted(set(ARGUMENTS) - {"restart"}))
def test_a_dry_run_in_a_shell_does_what_a_real_run_does(script, recorders, tmp_path):
    """Hostile values come out as one word each, and nothing in them is run."""
    path, record = recorders
    words = list(ARGUMENTS[script])
    if script == "create":
        words += ["--network=a b; touch pwned", "--valid-for=`touch pwned`"]
    if script == "setup":
        words += ["--ref=HEAD; touch pwned"]
    if "--workdir=bucket/runs/r1" in words:
        words += ["--workdir=a b; touch pwned", "--config=$(touch pwned)", "--", *HOSTILE]
    assert call(script, *words, path=path).returncode == 0
    real = taken(record)
    printed = call(script, "--dry-run", *words, path=path).stdout
    taken(record)  # a dry run asks git whether all is committed
    environment = {"PATH": f"{path}:/usr/bin:/bin"}
    subprocess.run(["bash", "-eu", "-c", printed], env=environment, cwd=tmp_path, check=True, capture_output=True)
    assert without_the_folder(taken(record)) == without_the_folder(real) != []
    assert not list(tmp_path.rglob("pwned")) and not (ROOT / "pwned").exists()
    if script == "slurm":
        assert real[-1][-len(HOSTILE) - 1 : -1] == HOSTILE
    if script in ("launch", "xpk"):
        (command,) = (word.removeprefix("--command=") for word in real[-1] if word.startswith("--command="))
        assert shlex.split(command)[-len(HOSTILE) :] == HOSTILE


def without_the_folder(calls: list[list[str]]) -> list[list[str]]:
    """The calls that do something; a real run's archive lies in a temporary folder."""
    acting = [words for words in calls if "status" not in words]
    return [[re.sub(r"(^|=)/.*/r1jax.tar.gz", r"\1r1jax.tar.gz", word) for word in words] for words in acting]


def test_a_dry_run_runs_nothing(recorders):
    path, record = recorders
    for script, words in ARGUMENTS.items():
        call(script, *words, "--dry-run", path=path)
    assert {call[0] for call in taken(record)} <= {"git"}
