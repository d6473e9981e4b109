"""Figures with their sampling error: a value, and the same value under resamplings of the problems it is a mean over.

Two figures of the same problems share their resamplings, so their difference is paired problem by problem. Two runs
are evaluated on the same problems, too: a mean over runs is resampled over problems, and says nothing of other seeds.

Axes: R resamplings, M problems (or steps).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLINGS = 2000
SEED = 0
LEVEL = 0.95


class Measure(NamedTuple):
    """A figure and its resampled values."""

    value: float
    draws_R: np.ndarray

    @property
    def low(self) -> float:
        return float(np.quantile(self.draws_R, (1 - LEVEL) / 2))

    @property
    def high(self) -> float:
        return float(np.quantile(self.draws_R, (1 + LEVEL) / 2))


def resamplings(count: int) -> np.ndarray:
    """weight_RM: how often each of `count` problems is drawn, over their number. The same for the same count."""
    if count < 1:
        raise ValueError(f"there are {count} problems; expected at least one")
    draws = np.random.default_rng([SEED, count]).multinomial(count, np.full(count, 1 / count), RESAMPLINGS)
    return draws / count


def exact(value: float) -> Measure:
    """A figure without sampling error, such as a number of bytes."""
    return Measure(value, np.full(RESAMPLINGS, value))


def mean(values_M: Sequence[float] | np.ndarray) -> Measure:
    """The mean over problems."""
    array_M = np.asarray(values_M, np.float64)
    draws_R = resamplings(len(array_M)) @ array_M
    return Measure(float(array_M.mean()), draws_R)


def pooled(total_M: Sequence[float] | np.ndarray, count_M: Sequence[float] | np.ndarray) -> Measure:
    """Sum of `total_M` by sum of `count_M`, as of tokens by right completions. NaN where there are none."""
    total, count = mean(total_M), mean(count_M)
    return ratio(total, count)


def median(values_M: Sequence[float] | np.ndarray) -> Measure:
    """The median over steps."""
    array_M = np.asarray(values_M, np.float64)
    index_RM = np.random.default_rng([SEED, len(array_M)]).integers(len(array_M), size=(RESAMPLINGS, len(array_M)))
    return Measure(float(np.median(array_M)), np.median(array_M[index_RM], axis=1))


def difference(one: Measure, other: Measure) -> Measure:
    return Measure(one.value - other.value, one.draws_R - other.draws_R)


def ratio(one: Measure, other: Measure) -> Measure:
    with np.errstate(divide="ignore", invalid="ignore"):
        draws_R = one.draws_R / other.draws_R
        return Measure(float(np.float64(one.value) / np.float64(other.value)), draws_R)


def together(measures: Sequence[Measure]) -> Measure:
    """The mean over runs."""
    value = float(np.mean([measure.value for measure in measures]))
    return Measure(value, np.mean([measure.draws_R for measure in measures], axis=0))
