"""Verbs' manners: one JSON line, exit codes, clear messages."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VERB = '''
    """Counts things."""
    import os
    from absl import flags
    from ml_collections import config_flags
    from r1jax import command, config

    CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config.", lock_config=True)
    ACT = flags.DEFINE_string("act", "", "What to do.")

    def main(words):
        print("printed")
        os.write(1, b"printed from C\\n")
        if ACT.value == "interrupt":
            raise KeyboardInterrupt
        if ACT.value == "fault":
            raise ValueError("a fault of the program")
        if ACT.value == "unmet":
            raise command.Unmet({"fits": False})
        if ACT.value == "path":
            open("missing.txt")
        if ACT.value == "bad":
            config.stage_config({"stage": "rll"})
        return {"lr": CONFIG.value.optimizer.lr if CONFIG.value else None}

    if __name__ == "__main__":
        command.main(main)
'''
CONFIG = """
    from ml_collections import ConfigDict

    def get_config():
        return ConfigDict({"optimizer": {"lr": 0.5, "warmup_steps": 3}}).lock()
"""


@pytest.fixture(scope="module")
def verb(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verb")
    (folder / "count.py").write_text(textwrap.dedent(VERB))
    (folder / "config.py").write_text(textwrap.dedent(CONFIG))

    def run(*args):
        return subprocess.run(
            [sys.executable, "-m", "count", *args],
            capture_output=True,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    return run


def test_result_is_all_of_stdout(verb):
    done = verb("--config=config.py", "--config.optimizer.lr=0.25")
    assert done.returncode == 0, done.stderr
    assert done.stdout == json.dumps({"lr": 0.25}) + "\n"
    assert done.stderr == "printed\nprinted from C\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config=config.py", "--config.optimizer.lrr=1"], "no key 'lrr'; did you mean 'lr'?"),
        (["--config=config.py", "--config.optimizer.warmup_steps=1.5"], "--config.optimizer.warmup_steps=1.5"),
        (["--config=none.py"], "none.py"),
        (["word"], "unexpected word 'word'"),
        (["--act=path"], "missing.txt"),
        (["--act=bad"], "did you mean 'rl'?"),
    ],
)
def test_bad_input_is_exit_2_without_a_traceback(verb, args, message):
    done = verb(*args)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_fault_is_exit_1_with_its_traceback(verb):
    done = verb("--act=fault")
    assert done.returncode == 1 and done.stdout == ""
    assert "Traceback" in done.stderr and "a fault of the program" in done.stderr


def test_a_no_is_printed_and_is_exit_1(verb):
    done = verb("--act=unmet")
    assert (done.returncode, done.stdout) == (1, '{"fits": false}\n') and "Traceback" not in done.stderr


def test_interrupt_is_exit_130(verb):
    done = verb("--act=interrupt")
    assert done.returncode == 130 and done.stdout == "" and "Traceback" not in done.stderr


def test_help_shows_the_verbs_own_flags(verb):
    done = verb("--help")
    assert done.returncode == 0
    for text in ("Counts things.", "Usage: python -m count", "--act", "What to do.", "--config"):
        assert text in done.stdout
    assert "--pdb" not in done.stdout and "--verbosity" not in done.stdout


def test_compiled_programs_are_kept(tmp_path):
    code = """
        import jax, jax.numpy as jnp
        from r1jax import command
        command.use_compilation_cache()
        jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3)))
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
    env |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env=env)
    assert list((tmp_path / "r1jax" / "compiled").iterdir())
