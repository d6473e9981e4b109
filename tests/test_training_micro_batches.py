"""Micro-batches that hold nothing are skipped: their number changes neither the update nor its cost."""

import jax
import jax.numpy as jnp
import pytest

from r1jax.data.packing import document, pad_rows, write_rows
from r1jax.training.step import padding, skipping
from tests import test_training_step as steps


def test_rows_without_a_token_are_not_computed():
    """What is computed of an empty micro-batch would be infinite; skipped, it is 0."""

    def inverse(rows, scale):
        return scale / jnp.sum(rows.segment_RT > 0), jnp.int32(7)

    rows = write_rows([[document([7, 8, 9])]], 5, 0)
    for packed, want in ((rows, (1.5, 7)), (rows._replace(segment_RT=0 * rows.segment_RT), (0.0, 0))):
        got = jax.jit(skipping(inverse))(packed, 3.0)
        assert (float(got[0]), int(got[1])) == want


def test_padding_is_counted_where_there_is_work():
    """Rows of 5 in pairs: 2 of 10 places, then 10 of 10, then a pair of empty rows, which costs nothing."""
    rows = [[document([7, 8, 9])], [], [document(list(range(6)))], [document(list(range(6)))], [], []]
    assert float(padding(write_rows(rows, 5, 0), 2)) == pytest.approx(8 / 20)
    assert float(padding(write_rows([[], []], 5, 0), 2)) == 1.0


def test_empty_rows_change_nothing():
    """The update of a batch, and of the same with as many rows again that are empty, two rows at a time."""
    batch = steps.rl_batch()
    longer = batch._replace(packed=pad_rows(batch.packed, 2 * steps.ROWS, 0))
    (want, want_metrics), (got, metrics) = (steps.rl(micro_rows=2)(steps.state(), given) for given in (batch, longer))
    steps.assert_same_update((got, metrics), (want, want_metrics))
    assert 0 < metrics["update/padding"] < 0.7 < float((longer.packed.segment_RT == 0).mean())
