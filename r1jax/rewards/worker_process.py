"""The worker's side of the grading pool: a fresh interpreter that answers calls over its standard pipes."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any


def resolve(path: str) -> Callable[..., Any]:
    """The function that 'package.module:name' names."""
    module, _, name = path.partition(":")
    function = getattr(importlib.import_module(module), name)
    if not callable(function):
        raise TypeError(f"{path} is a {type(function).__name__}, not a function")
    return function


def call(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """What the function returns, awaited if it is async."""
    result = function(**arguments)
    return asyncio.run(_wait_for(result)) if inspect.isawaitable(result) else result


async def _wait_for(awaitable: Any) -> Any:
    return await awaitable


def call_reward(path: str, arguments: dict[str, Any]) -> list[float | None]:
    """A reward function's values, as plain numbers."""
    return [None if value is None else float(value) for value in call(resolve(path), arguments)]


def imports(path: str) -> bool:
    """True; raises where the path names no function."""
    return callable(resolve(path))


def serve() -> None:
    """The worker's side: answer calls on standard input until it ends. Arguments: seconds, MiB."""
    limit_s, memory = float(sys.argv[1]), int(sys.argv[2]) << 20
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)  # a grader that prints must not write into the replies
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process whatever it is doing
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies.write(_reply("ok", None, "ready"))
    function: Callable[..., Any] | None = None
    for line in requests:
        request = json.loads(line)
        if "load" in request:
            function, answer = _load_here(request["load"])
        else:
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            answer = _call_here(function, request["args"])
            signal.setitimer(signal.ITIMER_REAL, 0)
        view = memoryview(answer)
        while view:
            view = view[replies.write(view) :]


def _load_here(path: str) -> tuple[Callable[..., Any] | None, bytes]:
    try:
        return resolve(path), _reply("ok", None, "")
    except Exception as error:  # whatever an import raises is told to the parent
        return None, _reply("error", None, f"{type(error).__name__}: {error}")


def _call_here(function: Callable[..., Any] | None, args: list) -> bytes:
    try:
        if function is None:
            raise RuntimeError("no function was loaded")
        return _reply("ok", function(*args), "")
    except MemoryError:
        os._exit(3)  # the state of this interpreter is not to be trusted any more
    except Exception as error:
        return _reply("error", None, f"{type(error).__name__}: {error}"[:500])


def _reply(status: str, value: Any, message: str) -> bytes:
    return json.dumps({"status": status, "value": value, "message": message}).encode() + b"\n"
