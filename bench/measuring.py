"""Times, load and memory of this process, and the JSON lines that say them."""

from __future__ import annotations

import gc
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from r1jax.training.compiles import Compiles as Compiles  # for all that measure here


class Repeat(NamedTuple):
    """One repeat of a measured piece of work."""

    seconds: float
    cpu_seconds: float  # of all threads of this process: what it cost, however busy the machine is


class Load:
    """How many cores this process, and all else, took in a `with` block."""

    def __enter__(self) -> Load:
        self._before, self._began = _jiffies(), time.perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        busy, own = (after - before for after, before in zip(_jiffies(), self._before, strict=True))
        seconds = time.perf_counter() - self._began
        self.own_cores = round(own / seconds, 2)
        self.other_cores = round(max(0.0, busy / os.sysconf("SC_CLK_TCK") - own) / seconds, 2)


def _jiffies() -> tuple[float, float]:
    """(busy jiffies of the machine, the hypervisor's included; CPU seconds of this process)."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq, steal = map(float, file.readline().split()[1:9])
    return user + nice + system + irq + softirq + steal, time.process_time()


def repeated(once: Callable[[int], Any], warmup: int, repeats: int) -> tuple[list[Repeat], list[Any], Load]:
    """`once(number)` again and again: the repeats after the warm-up, what they returned, and the load meanwhile."""
    for number in range(warmup):
        once(number)
    gc.collect()
    out, kept = [], []
    with Load() as load:
        for number in range(warmup, warmup + repeats):
            began, cpu = time.perf_counter(), time.process_time()
            kept.append(once(number))
            out.append(Repeat(time.perf_counter() - began, time.process_time() - cpu))
    return out, kept, load


def peak_rss_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def line(model: str, measure: str, value: float, unit: str, **more: Any) -> dict[str, Any]:
    """One measurement, as the harness's peers print it."""
    return {"peer": "r1jax", "model": model, "measure": measure, "value": significant(value), "unit": unit} | more


def timed(model: str, measure: str, seconds: list[float], tokens: int | None, **more: Any) -> dict[str, Any]:
    """A line of repeats: tokens a second where `tokens` is given, else seconds. The median, and the span."""
    median, low, high = statistics.median(seconds), min(seconds), max(seconds)
    if tokens is None:
        value, unit, span = median, "s", (low, high)
    else:
        value, unit, span = tokens / median, "tokens/s", (tokens / high, tokens / low)
    figures = dict(n=len(seconds), median_s=significant(median), span=[significant(x) for x in span])
    return line(model, measure, value, unit, **figures, **more)


def significant(x: float) -> float:
    return float(f"{x:.5g}")


def say(one: dict[str, Any]) -> None:
    print(json.dumps(one), file=sys.__stdout__, flush=True)
