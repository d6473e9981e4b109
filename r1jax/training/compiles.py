"""How many programs a run has made ready, and what that took: as JAX tells of each."""

from __future__ import annotations

import ctypes
from typing import Any

import jax

READY = "/jax/core/compile/backend_compile_duration"
CACHED = "/jax/compilation_cache/cache_hits"


LARGE = 0.2  # seconds of a program whose compiling has taken memory worth giving back


class Compiles:
    """Counts from when it is made until `close`, and gives back what memory the compiler has freed.

    Attributes:
      count: programs made ready: compiled, or read from the compilation cache.
      cached: those that were read from the cache.
      seconds: that both took.
    """

    def __init__(self) -> None:
        self.count, self.cached, self.seconds = 0, 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._made_ready)
        jax.monitoring.register_event_listener(self._heard)

    def close(self) -> None:
        jax.monitoring.unregister_event_duration_listener(self._made_ready)
        jax.monitoring.unregister_event_listener(self._heard)

    def figures(self) -> dict[str, float]:
        """As metrics of a run, so far."""
        return {"compile/count": self.count, "compile/cached": self.cached, "compile/seconds": self.seconds}

    def _made_ready(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == READY:
            self.count += 1
            self.seconds += duration_secs
            if duration_secs > LARGE:
                give_back_memory()

    def _heard(self, event: str, **_: Any) -> None:
        self.cached += event == CACHED


def give_back_memory() -> None:
    """Hands to the system what this process has freed.

    glibc keeps it, some hundred MB after a large program is compiled, in places that later arrays do not fit in.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim:
        trim(0)
