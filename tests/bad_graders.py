"""Graders that misbehave, in a module that imports nothing heavy: some are called in processes of their own."""

import os
import signal
import time


def sleeps(completions):
    time.sleep(3600)


def raises(completions):
    raise KeyError("no such thing")


def not_a_number(completions):
    return [float("nan")] * len(completions)


def dies(completions):
    os.kill(os.getpid(), signal.SIGKILL)


def pooled(completions, pool, report):
    """One completion's grader, in the shared pool, kills its process; the others are graded."""
    calls = [(text, i == 0) for i, text in enumerate(completions)]
    outcomes = pool.map("bad_graders:length_or_death", calls)
    report("lost", sum(outcome.status == "crashed" for outcome in outcomes))
    return [0.0 if outcome.status != "ok" else outcome.value for outcome in outcomes]


def length_or_death(text, die):
    if die:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(text) / 100


def brief(completions, completion_ids):
    """A good one: the shorter, the better."""
    return [-len(ids) / 32 for ids in completion_ids]
