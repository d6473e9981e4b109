"""Programs that a model wrote, run where they can do no harm: in bubblewrap, or not at all.

A program gets a fresh interpreter with the standard library, without network, in process, user, host and message
namespaces of its own, over a root that is read-only and holds no more than that interpreter needs, with a small
private /tmp, an empty environment, no /proc, no capabilities, and system calls filtered (`seccomp`). It may use so
much processor time, wall time, memory, disk and output, and may start threads but no processes. When its time is up
the whole namespace is killed, and `run` returns only once it is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.resources
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from r1jax.rewards import seccomp
from r1jax.rewards.sandboxed import READY

START_TIMEOUT_S = 30.0  # until the interpreter is ready, on a busy machine; not the program's time
END_TIMEOUT_S = 30.0  # for the kernel to clear a killed namespace away
INSTALL = "apt-get install bubblewrap"
NOBODY = "65534"
MIB = 1 << 20
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")  # beside /usr; links into it on most systems
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_INSIDE = importlib.resources.files("r1jax.rewards").joinpath("sandboxed.py").read_text(encoding="utf-8")


class Limits(NamedTuple):
    """Of one program."""

    cpu_s: float  # processor seconds, of all its threads
    wall_s: float
    memory_mib: int  # address space
    disk_mib: int  # /tmp, and of it any one file
    output_kib: int  # standard output


class Ended(NamedTuple):
    """How a program came to its end."""

    status: str  # exited | timeout (wall or processor) | output (too much of it)
    code: int  # exit status, where it exited; 128 + the signal that ended it
    output: bytes  # standard output, as far as read


def require() -> None:
    """Raise ValueError where programs cannot be sandboxed on this machine; says how to mend it."""
    limits = Limits(cpu_s=10, wall_s=30, memory_mib=512, disk_mib=1, output_kib=1)
    try:
        ended = run("print(6 * 7)", (), "", limits)
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"rewards that run code need the sandbox bubblewrap, 0.8 or newer: {error}; install it "
            f"({INSTALL}), and allow unprivileged user namespaces where the system forbids them"
        ) from error
    if ended != Ended("exited", 0, b"42\n"):
        raise ValueError(f"the code sandbox does not work here: a program that prints 42 gave {ended}; see {INSTALL}")


def run(program: str, expressions: Sequence[str], stdin: str, limits: Limits) -> Ended:
    """Run untrusted Python in the sandbox, from any thread.

    Args:
      program: its source.
      expressions: evaluated in its namespace one after the other, each giving a line of output (see `sandboxed`);
        with none, the program is run as a script.
      stdin: its standard input.
      limits: what it may use.

    Raises:
      RuntimeError: the sandbox is not there or did not start. The program has not run then.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise RuntimeError("there is no bwrap on the PATH")
    if "\0" in program:
        return Ended("exited", 1, b"")  # the interpreter would refuse it
    with contextlib.ExitStack() as stack:

        def sealed(data: bytes) -> int:
            descriptor = _sealed(data)
            stack.callback(os.close, descriptor)
            return descriptor

        job = sealed("\0".join([program, *expressions]).encode("utf-8", "surrogatepass"))
        calls = sealed(seccomp.program())
        given = sealed(stdin.encode("utf-8", "replace"))
        errors = stack.enter_context(os.fdopen(os.memfd_create("errors"), "rb"))
        status, told = os.pipe()  # on which bwrap tells the process number of the program
        stack.callback(os.close, status)
        limited = [math.ceil(limits.cpu_s), limits.memory_mib * MIB, limits.disk_mib * MIB]
        # The interpreter itself, not a virtual environment's link to it, which would not resolve in there.
        python = os.path.realpath(sys.executable)
        inside = [python, "-I", "-S", "-B", "-X", "utf8", "-c", _INSIDE, *map(str, [job, *limited])]
        try:
            process = subprocess.Popen(
                [bwrap, *_confinement(limits, calls, told), "--", *inside],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                pass_fds=(job, calls, told),
                env={},
                start_new_session=True,
            )
        finally:
            os.close(told)
        with process:
            try:
                ended = _watch(process, limits)
            finally:
                _end(process, status)
        if ended is None:
            errors.seek(0)
            why = errors.read(1000).decode(errors="replace").strip() or f"no word of it within {START_TIMEOUT_S:g} s"
            raise RuntimeError(f"bwrap did not start the sandbox: {why}")
        return ended


def _confinement(limits: Limits, calls: int, told: int) -> list[str]:
    """bubblewrap's arguments."""
    shown = ["--ro-bind", "/usr", "/usr"]
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            shown += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            shown += ["--ro-bind", str(path), str(path)]
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        shown += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    return [
        "--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox",
        "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
        "--uid", NOBODY, "--gid", NOBODY, "--cap-drop", "ALL",
        *shown,
        "--dev", "/dev", "--remount-ro", "/dev",
        "--size", str(limits.disk_mib * MIB), "--tmpfs", "/tmp", "--chdir", "/tmp",
        "--remount-ro", "/",
        "--seccomp", str(calls), "--json-status-fd", str(told),
    ]  # fmt: skip


def _watch(process: subprocess.Popen[bytes], limits: Limits) -> Ended | None:
    """Read what the program writes until it ends or is past a limit; None if it never started."""
    assert process.stdout is not None, "it is a pipe"
    output = bytearray()
    started, deadline = False, time.monotonic() + START_TIMEOUT_S
    while (data := _read(process.stdout.fileno(), deadline)) != b"":
        if data is None:
            return Ended("timeout", 0, bytes(output)) if started else None
        output += data
        if not started and output.startswith(READY):
            started, deadline = True, time.monotonic() + limits.wall_s
            del output[: len(READY)]
        if len(output) > limits.output_kib << 10:
            return Ended("output", 0, bytes(output))
    if not started:
        return None
    try:
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:  # it has closed its output and goes on
        return Ended("timeout", 0, bytes(output))
    over = code == 128 + signal.SIGKILL  # an init's own signals do not kill it: that was the kernel, at the limit
    return Ended("timeout" if over else "exited", code, bytes(output))


def _read(descriptor: int, deadline: float) -> bytes | None:
    """What there is to read, b'' at the end, None past the deadline."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(math.ceil(left * 1000)):
        return None
    return os.read(descriptor, 1 << 16)


def _end(process: subprocess.Popen[bytes], status: int) -> None:
    """Kill what is still in the sandbox; return once the last of it is gone.

    What is killed is the program, the init of its process namespace: the kernel ends the rest with it, and bwrap,
    which waits for it, ends after it. Killed itself, bwrap would leave a zombie behind.
    """
    if process.poll() is None:
        told = _read(status, time.monotonic() + START_TIMEOUT_S)
        if told:
            with contextlib.suppress(ProcessLookupError):
                os.kill(json.loads(told.partition(b"\n")[0])["child-pid"], signal.SIGKILL)
        else:
            process.kill()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise RuntimeError(f"a killed sandbox was still there after {END_TIMEOUT_S:g} s") from None


def _sealed(data: bytes) -> int:
    """A descriptor of a nameless file with this content, at its beginning, that nobody can change."""
    descriptor = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor
