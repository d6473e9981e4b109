"""Model FLOPs against sums spelt out by hand."""

import dataclasses

import numpy as np

from r1jax.models.policy import mtp_parameter_count
from r1jax.training.flops import forward_flops
from r1jax.types import Packed
from tests import tiny_policy as tiny


def packed() -> Packed:
    """Sequences of 3 and 2 tokens and padding: 5 tokens, 3 * 4 / 2 + 2 * 3 / 2 = 9 pairs."""
    return tiny.rows([[1, 2, 3], [4, 5]], 4)


def test_latent_attention_and_experts():
    """Of the tiny policy: weights that multiply a token, the head among them, and 2 heads of 8 + 6 channels a pair."""
    attention = 16 * 2 * 8 + 16 * 12 + 8 * 2 * 4 + 8 * 2 * 6 + 2 * 6 * 16
    mixture = 3 * 16 * 12 * (2 + 1) + 16 * 8
    norms = 3 * (8 + 2 * 16) + 16
    weights = 3 * attention + 3 * 16 * 24 + 2 * mixture + norms + 16 * 32
    assert forward_flops(tiny.CONFIG, packed()) == 2 * (weights * 5 + 3 * 2 * (8 + 6) * 9)


def test_grouped_attention_and_a_tied_head():
    """4 query and 2 key-value heads of 6 channels; the embedding multiplies once, as the head, if tied."""
    attention = 16 * 6 * (4 + 2 + 2) + 4 * 6 * 16
    weights = 3 * (attention + 3 * 16 * 24 + 2 * 16) + 16 + 16 * 32
    want = 2 * (weights * 5 + 3 * 4 * 12 * 9)
    assert forward_flops(tiny.DENSE, packed()) == want
    assert forward_flops(dataclasses.replace(tiny.DENSE, tied=True), packed()) == want


def test_multi_token_prediction_is_a_layer_and_the_head_once_more():
    config = dataclasses.replace(tiny.CONFIG, mtp_layers=1)
    plain, more = forward_flops(config, packed()), forward_flops(config, packed(), mtp=True)
    assert plain == forward_flops(tiny.CONFIG, packed())
    assert more - plain == 2 * ((mtp_parameter_count(config)[1] + 16 * 32) * 5 + 2 * (8 + 6) * 9)


def test_padding_costs_nothing():
    longer = tiny.rows([[1, 2, 3], [4, 5], []], 9)
    assert forward_flops(tiny.CONFIG, longer) == forward_flops(tiny.CONFIG, packed())
    assert np.asarray(longer.segment_RT).size == 27
