"""A pool of killable processes for grading untrusted text.

A worker is a fresh interpreter (never a fork of the trainer, whose JAX threads would not survive one) that
answers calls over pipes, one JSON object a line; JSON, so that a subverted worker cannot run code here. A
call past its time limit is ended by SIGKILL, which also stops C code that no Python signal reaches. A worker
whose trainer dies reads end-of-file and exits; one that is busy then is ended by a kernel timer that it set
itself before the call.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

START_TIMEOUT_S = 120.0  # interpreter start and the grader's imports, on a cold and busy machine
CHUNK_CALLS = 32  # calls sent ahead of their results, which hides the round trip
CHUNK_BYTES = 32_768  # of those; half a Linux pipe, so that a write never waits for a busy worker
MAX_REPLY_BYTES = 1 << 24
ORPHAN_SLACK_S = 1.0  # past the call's limit, when the parent should have killed it already


class Outcome(NamedTuple):
    """What became of one call."""

    status: str  # ok | timeout | crashed | error (the function raised)
    value: Any  # JSON value, where ok
    message: str  # why, where not ok


class WorkerPool:
    """Processes that each run one call at a time, under limits of time and memory.

    They start at the first `map`, and a killed or dead one is replaced when next needed. Any thread may
    call; concurrent maps share the workers. Close the pool, or use it in a `with` statement.

    Args:
      workers: processes.
      timeout_s: of one call, seconds; the import of its function is not counted.
      memory_mib: address space of one process (RLIMIT_AS), MiB.
    """

    def __init__(self, workers: int, timeout_s: float, memory_mib: int):
        if workers < 1 or not 0 < timeout_s < math.inf or memory_mib < 1:
            raise ValueError(
                f"WorkerPool got workers={workers}, timeout_s={timeout_s}, memory_mib={memory_mib}; "
                "expected at least one worker and positive, finite limits"
            )
        self.timeout_s = timeout_s
        self._workers = [_Worker(timeout_s, memory_mib) for _ in range(workers)]
        self._idle: queue.Queue[_Worker] = queue.Queue()
        for worker in self._workers:
            self._idle.put(worker)

    def map(self, function: str, calls: Sequence[Sequence[Any]], budget_s: float = math.inf) -> list[Outcome]:
        """The outcomes of `function(*args)` for each args of `calls`, in their order.

        Args:
          function: 'package.module:name', importable in a fresh interpreter with this one's `sys.path`.
          calls: positional arguments of each call, as JSON values.
          budget_s: seconds for all of them together; calls not begun by then are timed out.

        Raises:
          RuntimeError: the workers do not start, the function does not import, or the pool is closed.
        """
        job = _Job(function, calls, time.monotonic() + budget_s)
        drivers = [
            threading.Thread(target=self._drive, args=(job,), name="r1jax-grading", daemon=True)
            for _ in range(min(len(self._workers), len(calls)))
        ]
        for driver in drivers:
            driver.start()
        for driver in drivers:
            driver.join()
        if job.failure is not None:
            raise RuntimeError(f"grading workers cannot run {function!r}: {job.failure}") from job.failure
        return [job.outcomes[i] for i in range(len(calls))]

    def close(self) -> None:
        """Kill the processes and release their pipes; calls in flight end as crashed."""
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _drive(self, job: _Job) -> None:
        while chunk := job.take(len(self._workers)):
            worker = self._idle.get()
            try:
                worker.run(job, chunk)
            except Exception as error:  # re-raised by map, in the caller's thread
                job.fail(error)
            finally:
                self._idle.put(worker)


class _Job:
    """One map: calls still to do, outcomes so far. Shared by the driver threads."""

    def __init__(self, function: str, calls: Sequence[Sequence[Any]], deadline: float):
        self.function, self.deadline = function, deadline
        self.frames = [json.dumps({"args": list(args)}).encode() + b"\n" for args in calls]
        self.outcomes: dict[int, Outcome] = {}
        self.failure: Exception | None = None
        self._pending = deque(range(len(calls)))
        self._lock = threading.Lock()

    def take(self, workers: int) -> deque[int]:
        """The next calls for one worker: a fair share, small enough to be written without waiting."""
        with self._lock:
            chunk: deque[int] = deque()
            share = min(CHUNK_CALLS, -(-len(self._pending) // workers))
            size = 0
            while self._pending and self.failure is None and len(chunk) < share:
                size += len(self.frames[self._pending[0]])
                if chunk and size > CHUNK_BYTES:
                    break
                chunk.append(self._pending.popleft())
            return chunk

    def give_back(self, chunk: deque[int]) -> None:
        with self._lock:
            self._pending.extendleft(reversed(chunk))

    def fail(self, error: Exception) -> None:
        with self._lock:
            self.failure = self.failure or error


class _Worker:
    """One process, or the place of one."""

    def __init__(self, timeout_s: float, memory_mib: int):
        self._timeout_s, self._memory_mib = timeout_s, memory_mib
        self._process: subprocess.Popen[bytes] | None = None
        self._function: str | None = None  # what it has loaded
        self._buffer = bytearray()
        self._closed = False
        self._lock = threading.Lock()  # held while the process is made or unmade
        self._busy = threading.Lock()  # held while its pipes are in use

    def run(self, job: _Job, chunk: deque[int]) -> None:
        """Run the chunk until it is done or the process is lost; what is left goes back to the job."""
        with self._busy:
            self._run(job, chunk)

    def _run(self, job: _Job, chunk: deque[int]) -> None:
        if time.monotonic() >= job.deadline:
            late = Outcome("timeout", None, "not begun within the budget of the batch")
            job.outcomes.update(dict.fromkeys(chunk, late))
            return
        self._load(job.function)
        with contextlib.suppress(OSError):  # a dead worker; reading says how it died
            self._write(b"".join(job.frames[i] for i in chunk))
        while chunk:
            limit = min(time.monotonic() + self._timeout_s, max(job.deadline, time.monotonic()))
            reply, reason = self._read(limit)
            if reply is None:
                status = "timeout" if reason == "timeout" else "crashed"
                message = f"no result within {self._timeout_s:g} s" if status == "timeout" else reason
                job.outcomes[chunk.popleft()] = Outcome(status, None, message)
                self._kill()
                break
            job.outcomes[chunk.popleft()] = Outcome(reply["status"], reply["value"], reply["message"])
        job.give_back(chunk)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._process is not None:
                _kill_group(self._process)
        with self._busy:  # whoever was reading has seen the end
            self._kill()

    def _load(self, function: str) -> None:
        """Make sure that a process runs and has imported the function."""
        if self._process is None or self._process.poll() is not None:
            self._start()
            self._expect("start", time.monotonic() + START_TIMEOUT_S)
        if function != self._function:
            self._write(json.dumps({"load": function}).encode() + b"\n")
            self._expect(f"import {function!r}", time.monotonic() + START_TIMEOUT_S)
            self._function = function

    def _start(self) -> None:
        self._kill()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._function, self._buffer = None, bytearray()
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from r1jax.rewards.worker_process import serve; serve()",
                    str(self._timeout_s + ORPHAN_SLACK_S),
                    str(self._memory_mib),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=_environment(),
                start_new_session=True,  # one signal ends it and whatever it started
            )

    def _expect(self, what: str, deadline: float) -> None:
        reply, reason = self._read(deadline)
        if reply is None or reply["status"] != "ok":
            self._kill()
            raise RuntimeError(f"could not {what}: {reply['message'] if reply else reason}")

    def _write(self, data: bytes) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise OSError("no process")
        view = memoryview(data)
        while view:
            view = view[process.stdin.write(view) :]

    def _read(self, deadline: float) -> tuple[dict | None, str]:
        """The next reply, or None and why there is none."""
        process = self._process
        if process is None or process.stdout is None:
            return None, "the pool was closed"
        try:
            return _read_line(process.stdout.fileno(), self._buffer, deadline)
        except EOFError:
            return None, f"the worker died (exit status {_exit_status(process)})"
        except (OSError, ValueError) as error:
            return None, f"the worker's pipe broke: {error}"

    def _kill(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            _kill_group(process)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:  # else its id may be somebody else's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _exit_status(process: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(1.0)
    return None


def _environment() -> dict[str, str]:
    """This process's, with its import path, one thread a library, and no accelerator."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    single = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return {**os.environ, **single, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}


def _read_line(descriptor: int, buffer: bytearray, deadline: float) -> tuple[dict | None, str]:
    """One JSON line from a pipe; what was read past it stays in `buffer`."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while (end := buffer.find(b"\n")) < 0:
        if len(buffer) > MAX_REPLY_BYTES:
            return None, f"the result is over {MAX_REPLY_BYTES} bytes"
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(math.ceil(left * 1000)):
            return None, "timeout"
        data = os.read(descriptor, 1 << 16)
        if not data:
            raise EOFError
        buffer += data
    line = bytes(buffer[:end])
    del buffer[: end + 1]
    return json.loads(line), ""
