"""What every verb shares: one JSON line on stdout, exit codes, quiet libraries, the compilation cache.

A verb's file defines its flags and `main(words) -> dict`, and ends with

    if __name__ == "__main__":
        command.main(main)

stdout carries the result alone; whatever else prints, from Python or from C++, goes to stderr. Exit codes: 0 done,
2 bad input (one clear message, no traceback), 130 interrupted, 143 told to stop by SIGTERM and saved, 1 anything else
(with its traceback). Of several processes the first alone writes to stdout.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import flags
from absl import logging as absl_logging

from r1jax import processes

DONE, FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
PATH_ERRORS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
# What absl and ml_collections raise for a flag: unknown, ill-typed, or a config file that is not there.
FLAG_ERRORS = (flags.Error, KeyError, AttributeError, TypeError, ValueError, OSError)
Verb = Callable[[list[str]], dict[str, Any] | list[dict[str, Any]]]  # a list is a line an entry
PACKAGE = Path(__file__).resolve().parent


class Unmet(Exception):
    """A verb has done its work, and the answer is no: its result is printed all the same, and the exit code is 1."""

    def __init__(self, result: dict[str, Any]):
        super().__init__("what was asked does not hold")
        self.result = result


def main(run: Verb, *, words: str = "") -> NoReturn:
    """Parses the command line, runs a verb, prints its result as one JSON line and exits.

    Args:
      run: the verb; takes the command line's words that are not flags.
      words: what those words are, such as "WORKDIR ...", for the help; empty where the verb takes none.
    """
    results = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # for good: libraries print even as the process exits
    quiet_libraries()
    code, text = _outcome(run, words)
    if text and processes.is_first():
        results.write(text + "\n")
    results.close()
    if code == FAILED and processes.count() > 1:
        _leave(code)
    sys.exit(code)


def quiet_libraries() -> None:
    """Leaves the terminal to progress and errors: libraries' own notes are dropped, their errors kept."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    for name in ("absl", "jax", "orbax", "tensorflow_datasets", "grain"):
        logging.getLogger(name).setLevel(logging.ERROR)


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, in JAX_COMPILATION_CACHE_DIR or the user's cache folder.

    Must come before the first jit.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "r1jax" / "compiled"))
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        # The least of programs, too: reading one takes 40 ms of a processor less than compiling it.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _outcome(run: Verb, words: str) -> tuple[int, str]:
    """The exit code, and what goes to stdout."""
    try:
        if any(arg in ("--help", "-help", "-h", "--helpfull", "--helpshort") for arg in sys.argv[1:]):
            return DONE, _help(words)
        rest = flags.FLAGS(sys.argv)[1:]
        for name in flags.FLAGS:
            hasattr(flags.FLAGS[name].value, "to_dict")  # a config file that failed to load raises only when touched
        if rest and not words:
            raise flags.Error(f"unexpected word {rest[0]!r}; options are written --NAME=VALUE, and --help lists them")
    except FLAG_ERRORS as error:
        return _bad_input(error)
    try:
        use_compilation_cache()
        result = run(rest)
        return DONE, "\n".join(json.dumps(row) for row in (result if isinstance(result, list) else [result]))
    except KeyboardInterrupt:
        print("\nInterrupted. The same command resumes from the last checkpoint.", file=sys.stderr)
        return INTERRUPTED, ""
    except processes.Preempted as notice:
        processes.say(f"\n{notice}. The same command goes on from there.")
        return TERMINATED, ""
    except Unmet as no:
        return FAILED, json.dumps(no.result)
    except PATH_ERRORS as error:
        return _bad_input(error)
    except Exception as error:
        if isinstance(error, ValueError) and _raised_here(error):
            return _bad_input(error)
        traceback.print_exc()
        if processes.count() > 1:
            print(f"error: {processes.loss(error)}", file=sys.stderr)
        return FAILED, ""


def _leave(code: int) -> NoReturn:
    """Ends at once: the usual way out waits for the other processes, which wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _raised_here(error: BaseException) -> bool:
    """Whether r1jax itself raised: its ValueErrors speak of bad input; one from inside a library is a fault."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and PACKAGE in Path(trace.tb_frame.f_code.co_filename).resolve().parents


def _bad_input(error: BaseException) -> tuple[int, str]:
    message = str(error) or type(error).__name__
    keys = re.findall(r"'(\w+)", message)
    if isinstance(error, (KeyError, AttributeError)) and keys:  # ml_collections: the key, and the nearest one it knows
        near = re.search(r'Did you mean "(\w+)"', message)
        message = f"the config has no key {keys[-1]!r}" + (f"; did you mean {near[1]!r}?" if near else "")
    print(f"error: {message}", file=sys.stderr)
    return BAD_INPUT, ""


def _help(words: str) -> str:
    module = sys.modules["__main__"]
    name = module.__spec__.name if module.__spec__ else Path(sys.argv[0]).name
    usage = f"python -m {name} [--FLAG=VALUE ...]{' ' + words if words else ''}"
    return f"{(module.__doc__ or '').strip()}\n\nUsage: {usage}\n{flags.FLAGS.main_module_help()}"
