"""The verbs as processes: one JSON line a result, exit codes, messages; and kills that a resumed run does not show."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import smoke_run

CONFIG = """
    import sys
    sys.path.insert(0, {tests!r})
    import smoke_run

    def get_config():
        return smoke_run.config().lock()
"""


def start(*args, stdin=subprocess.DEVNULL):
    env = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}  # one device: what a user has
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, args)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=smoke_run.ROOT,
        env=env,
    )


def run(*args):
    (((out, err), code),) = together(args)
    return code, out, err


@pytest.fixture(scope="module")
def zero():
    return smoke_run.finished() / "zero"


def together(*commands, typed=""):
    """Runs commands side by side: most of their time goes into starting."""
    processes = [start(*command, stdin=subprocess.PIPE) for command in commands]
    return [(process.communicate(typed, timeout=300), process.returncode) for process in processes]


def test_help_names_each_verbs_flags():
    verbs = {"main": "--workdir", "evaluate": "--tasks", "generate": "--prompt"}
    for ((out, err), code), (verb, flag) in zip(
        together(*[(f"r1jax.{verb}", "--help") for verb in verbs]), verbs.items(), strict=True
    ):
        assert code == 0, err
        assert flag in out and f"python -m r1jax.{verb}" in out


def test_bad_input_is_exit_2_with_one_clear_message(zero, tmp_path):
    cases = {
        "stage zero: config.rewards.digits.fn is 'gone:f'": (
            "r1jax.main", "--config=configs/smoke.py", f"--workdir={tmp_path / 'run'}",
            "--config.stages.zero.rewards.digits.fn=gone:f",
        ),
        "exceed policy.context (320)": ("r1jax.generate", f"--checkpoint={zero}", "--prompt=" + "why? " * 300),
        "holds no config.json": ("r1jax.generate", f"--checkpoint={zero.parent}", "--prompt=x"),
        "did you mean 'gsm8k'": ("r1jax.evaluate", f"--checkpoint={zero}", "--tasks=gsm8q"),
    }  # fmt: skip
    for ((out, err), code), (message, command) in zip(together(*cases.values()), cases.items(), strict=True):
        assert (code, out) == (2, ""), f"{command}: {err}"
        assert message in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_evaluate_prints_a_line_a_task(zero):
    code, out, err = run(
        "r1jax.evaluate", f"--checkpoint={zero}", "--tasks=arithmetic:test,arithmetic:train", "--samples=2", "--limit=8"
    )
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["task"] for line in lines] == ["arithmetic:test", "arithmetic:train"]
    for line in lines:
        assert list(line) == ["task", "n", "pass@1", "pass@2", "maj@2", "format", "mean_tokens"] and line["n"] == 8


def test_generate_completes_a_prompt_or_chats(zero):
    common = ("r1jax.generate", f"--checkpoint={zero}", "--max_tokens=8")
    asked = "What is 2 + 3 * 4?"
    ((out, err), code), ((chat_out, chat), chat_code) = together(
        (*common, f"--prompt={asked}", "--samples=2"), common, typed=f"{asked}\n{'why? ' * 300}\n\n"
    )
    assert code == 0, err
    result = json.loads(out)
    assert out.count("\n") == 1 and result["prompt"] == asked and len(result["completions"]) == 2
    assert all(c["tokens"] <= 8 and c["finish_reason"] in ("stop", "length") for c in result["completions"])
    assert err.count(asked) == 2 and "\x1b" not in err
    assert (chat_code, json.loads(chat_out)) == (0, {"turns": 2}), chat
    assert chat.count("> ") >= 3 and "exceed policy.context" in chat
    first = result["completions"][0]["text"].strip()
    assert "".join(first.split()) in "".join(chat.split())  # the same seed: what was streamed is what was completed


def test_a_finished_run_says_so_and_report_writes_the_page(zero, tmp_path):
    config = tmp_path / "tests_smoke.py"
    config.write_text("\n".join(line[4:] for line in CONFIG.format(tests=str(Path(__file__).parent)).splitlines()))
    commands = (
        ("r1jax.main", f"--config={config}", f"--workdir={zero.parent}"),
        ("r1jax.report", zero, f"--out={tmp_path / 'page.html'}"),
    )
    ((out, err), code), ((page_out, page_err), page_code) = together(*commands)
    assert code == 0, err
    assert "zero: finished already" in err
    assert json.loads(out) == json.loads((zero.parent / "returned.json").read_text())
    assert page_code == 0, page_err
    assert json.loads(page_out) == {"report": str(tmp_path / "page.html")}
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_sigkill_at_three_random_points_leaves_no_trace(tmp_path):
    """Killed once in pretraining and twice in RL, and resumed: all is bitwise as if it had run through."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    command = (
        "r1jax.main",
        "--config=configs/smoke.py",
        "--config.stages.base.steps=8",
        "--config.stages.zero.steps=12",
    )
    code, _, err = run(*command, f"--workdir={tmp_path / 'straight'}")
    assert code == 0, err
    interrupted = tmp_path / "interrupted"
    for stage, steps in (("base", range(1, 8)), ("zero", range(1, 7)), ("zero", range(7, 12))):
        process = start(*command, f"--workdir={interrupted}")
        metrics = interrupted / stage / "metrics.jsonl"
        step = rng.choice(steps)
        while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= step):
            time.sleep(0.005)
        time.sleep(rng.random() * 0.3)
        assert process.poll() is None, process.communicate()[1]
        process.send_signal(signal.SIGKILL)
        process.communicate()
    code, _, err = run(*command, f"--workdir={interrupted}")
    assert code == 0, err
    for stage in ("base", "zero"):
        assert smoke_run.differences(interrupted / stage, tmp_path / "straight" / stage) == []
