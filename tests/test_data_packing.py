"""Packing: by hand, back again, and without effect on any log-probability."""

import collections
import itertools
import json

import numpy as np
import pytest

from r1jax.data import packing
from r1jax.data.packing import DocumentPacker, Piece, document, fit, pack_groups, split_group, write_rows
from r1jax.types import Packed
from tests import tiny_policy as tiny
from tests.reference_policy import log_softmax

PAD = 0


def test_a_document_predicts_its_next_tokens_after_the_prompt():
    """Of [5, 6, 7, 8] with a prompt of 2, the tokens 7 and 8 are learnt."""
    assert document([5, 6, 7, 8], 2) == Piece((5, 6, 7), (6, 7, 8), (0.0, 1.0, 1.0), ())
    assert document([5, 6, 7, 8]).prefix_weight == (1.0, 1.0, 1.0)


def test_a_group_shares_its_prompt_but_for_the_last_token():
    (piece,) = split_group([1, 2, 3], [(0, [4]), (1, [5, 6])], 10)
    assert piece.prefix == (1, 2) and piece.prefix_weight == (0.0, 0.0)
    assert piece.branches == ((1, (3, 5), (5, 6)), (0, (3,), (4,)))
    assert piece.length == 5


def test_a_group_splits_into_as_few_pieces_as_its_lengths_need():
    """Prompt of 3 shares 2; of 8 places 6 are left a piece: 4+2, 5+1, and the empty one nowhere."""
    completions = [(0, [9] * 2), (1, [9] * 5), (2, []), (3, [9]), (4, [9] * 4)]
    pieces = split_group([1, 2, 3], completions, 8)
    assert [[number for number, _, _ in piece.branches] for piece in pieces] == [[4, 0], [1, 3]]
    assert all(piece.length == 8 for piece in pieces)


def test_a_sequence_longer_than_a_row_is_an_error():
    split_group([1, 2, 3], [(0, [9] * 6)], 8)
    with pytest.raises(ValueError, match=r"prompt of 3 tokens.*completion of 7.*batch\.row_length \(8\).*max_tokens"):
        split_group([1, 2, 3], [(0, [9] * 7)], 8)


def test_a_group_begins_in_the_room_that_the_one_before_leaves():
    """Rows of 10: the first group (1 shared, 7 and 6) leaves 2 and 3 places, as the second (1 shared, 2 and 1) has."""
    prompts, completions = [[1, 2], [3, 4]], [[9] * 7, [9] * 6, [8] * 2, [8]]
    packed, _ = pack_groups(prompts, completions, row_length=10, row_multiple=1, length=7, pad_id=PAD)
    assert packed.segment_RT.tolist() == [[1] * 8 + [2] * 2, [1] * 7 + [2] * 3]


@pytest.mark.parametrize(
    "prompts, samples, prompt, mean, limit, row_length",
    [(16, 16, 15, 25, 48, 256), (16, 16, 15, 25, 48, 512), (16, 8, 100, 60, 160, 1024), (64, 8, 100, 300, 1000, 2048)],
)
def test_ragged_groups_leave_little_padding(prompts, samples, prompt, mean, limit, row_length):
    """Lengths as a policy's are (gamma of shape 4, cut): rows are full, but for the last one."""
    for seed in range(5):
        draw = np.random.default_rng(seed)
        length_P = draw.integers(prompt * 3 // 4, prompt * 5 // 4 + 1, prompts)
        length_B = np.clip(draw.gamma(4, mean / 4, prompts * samples), 1, limit).astype(int)
        packed, index_BL = pack_groups(
            [[1] * n for n in length_P], [[2] * n for n in length_B],
            row_length=row_length, row_multiple=1, length=limit, pad_id=PAD,
        )  # fmt: skip
        assert (packed.segment_RT[:-1] == 0).mean() < 0.03
        np.testing.assert_array_equal((index_BL >= 0).sum(axis=1), length_B)
        assert len(np.unique(index_BL[index_BL >= 0])) == length_B.sum(), "no two tokens have one place"
        assert ((packed.weight_RT == 0) & (packed.segment_RT > 0)).sum() < 2.5 * length_P.sum(), "prompts are shared"


def test_fit_is_best_fit_decreasing():
    """7 and 6 open rows of 10; 3 fits both and takes the one with less left; then two of 2 fill the other row up."""
    assert fit([2, 7, 3, 6, 2], 10) == [[1, 2], [3, 0, 4]]
    assert fit([2, 7, 3, 6, 3], 10) == [[1, 2], [3, 4], [0]]
    assert fit([], 10) == []


def test_rows_by_hand():
    group = split_group([1, 2, 3], [(0, [4]), (1, [5, 6])], 9)
    packed = write_rows([[*group, document([7, 8, 9], 2)], []], 9, PAD)
    want = Packed(
        tokens_RT=[1, 2, 3, 5, 3, 7, 8, PAD, PAD],
        segment_RT=[1, 1, 1, 1, 1, 2, 2, 0, 0],
        branch_RT=[0, 0, 1, 1, 2, 0, 0, 0, 0],
        position_RT=[0, 1, 2, 3, 2, 0, 1, 0, 0],
        target_RT=[0, 0, 5, 6, 4, 8, 9, PAD, PAD],
        weight_RT=[0, 0, 1, 1, 1, 0, 1, 0, 0],
    )
    for got, row, name in zip(packed, want, Packed._fields, strict=True):
        np.testing.assert_array_equal(got[0], row, err_msg=name)
    for got, empty in zip(packed, (PAD, 0, 0, 0, PAD, 0), strict=True):
        assert (got[1] == empty).all()
    assert {x.dtype.name for x in packed[:-1]} == {"int32"} and packed.weight_RT.dtype == np.float32
    rows = [[], [*group, document([7, 8, 9], 2)]]
    np.testing.assert_array_equal(packing.places(rows, 9, 3, 4), [[13, -1, -1, -1], [11, 12, -1, -1], [-1] * 4])


def groups(seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """3 prompts (one of a single token) and 4 ragged completions each, two of them empty."""
    prompts = tiny.draw_tokens(seed, 4, 1, 6)
    completions = tiny.draw_tokens(seed + 1, 5, 0, 7, 3, 2, 2, 8, 1, 6, 0, 4, 9)
    return prompts, completions


@pytest.mark.parametrize("row_length", [15, 24, 70])
def test_every_token_stands_once_where_the_index_says(row_length):
    prompts, completions = groups()
    packed, index_BL = pack_groups(prompts, completions, row_length=row_length, row_multiple=4, length=10, pad_id=PAD)
    assert packed.tokens_RT.shape[0] % 4 == 0
    flat_target, used = packed.target_RT.reshape(-1), []
    for b, tokens in enumerate(completions):
        assert (index_BL[b, len(tokens) :] == -1).all()
        at = index_BL[b, : len(tokens)]
        assert flat_target[at].tolist() == tokens
        position = packed.position_RT.reshape(-1)[at]
        assert position.tolist() == list(range(len(prompts[b // 4]) - 1, len(prompts[b // 4]) - 1 + len(tokens)))
        used += at.tolist()
    assert sorted(used) == np.flatnonzero(packed.weight_RT).tolist(), "weights and index name the same places"


@pytest.mark.parametrize("row_length", [15, 24, 70])
def test_packed_log_probabilities_equal_those_of_each_sequence_alone(row_length):
    prompts, completions = groups()
    weights = tiny.variables()
    packed, index_BL = pack_groups(prompts, completions, row_length=row_length, row_multiple=4, length=10, pad_id=PAD)
    flat = np.asarray(tiny.forward()(weights, packed)[0], np.float64).reshape(-1, tiny.CONFIG.vocab_size)
    whole = [prompts[b // 4] + tokens for b, tokens in enumerate(completions)]
    alone = np.asarray(tiny.forward()(weights, tiny.rows(whole, 16))[0], np.float64)
    for b, tokens in enumerate(completions):
        start = len(prompts[b // 4]) - 1
        want = log_softmax(alone[b, start : start + len(tokens)])
        np.testing.assert_allclose(log_softmax(flat[index_BL[b, : len(tokens)]]), want, atol=1e-5)


def test_nothing_sampled_still_gives_rows():
    packed, index_BL = pack_groups([[1, 2]], [[], []], row_length=8, row_multiple=4, length=5, pad_id=PAD)
    assert packed.tokens_RT.shape == (4, 8) and (packed.segment_RT == 0).all() and (index_BL == -1).all()


def test_pad_rows_adds_empty_rows():
    packed = write_rows([[document([7, 8, 9])]], 5, PAD)
    padded = packing.pad_rows(packed, 3, PAD)
    for before, after in zip(packed, padded, strict=True):
        assert after.shape == (3, 5) and after.dtype == before.dtype
        np.testing.assert_array_equal(after[:1], before)
    assert (padded.segment_RT[1:] == 0).all() and (padded.weight_RT[1:] == 0).all()
    assert packing.pad_rows(packed, 1, PAD) is packed


def stream(seed: int = 0):
    """Endless documents of 2 to 30 tokens, each token named by its document and place, so that none is like another."""
    draw = np.random.default_rng(seed)
    for number in itertools.count():
        length = int(draw.integers(2, 31))
        yield [1000 * number + i for i in range(length)], int(draw.integers(0, length))


def learnt(packed: Packed) -> collections.Counter:
    """(input, target, weight) of every place that is not padding."""
    real = packed.segment_RT > 0
    fields = (packed.tokens_RT, packed.target_RT, packed.weight_RT)
    return collections.Counter(zip(*(x[real].tolist() for x in fields), strict=True))


def test_every_drawn_document_comes_out_exactly_once():
    """Rows of 12, so that most documents are cut: each pair of neighbours is learnt once, or still waits."""
    drawn = []

    def watched():
        for item in stream():
            drawn.append(item)
            yield item

    packer = DocumentPacker(watched(), rows=4, row_length=12, pad_id=PAD)
    out, padding = collections.Counter(), 0
    for _ in range(20):
        packed = next(packer)
        assert packed.tokens_RT.shape == (4, 12)
        padding += int((packed.segment_RT == 0).sum())
        out += learnt(packed)
    for tokens, prompt in packer.waiting:
        piece = document(tokens, prompt)
        out += collections.Counter(zip(piece.prefix, piece.prefix_target, piece.prefix_weight, strict=True))
    want = collections.Counter(
        (tokens[i], tokens[i + 1], float(i + 1 >= prompt)) for tokens, prompt in drawn for i in range(len(tokens) - 1)
    )
    assert out == want
    assert padding < 0.1 * 20 * 48, "rows are nearly full"
    assert sum(len(tokens) for tokens, _ in packer.waiting) < 3 * 48, "little waits"


def test_a_cut_document_starts_anew_with_the_token_it_was_cut_at():
    """12 tokens in rows of 5, the first 7 a prompt: tokens 0-5, 5-10, 10-11; learnt from token 7 on."""
    packer = DocumentPacker(iter([(list(range(100, 112)), 7)]), rows=2, row_length=5, pad_id=PAD)
    packed = next(packer)
    np.testing.assert_array_equal(packed.tokens_RT, [range(100, 105), range(105, 110)])
    np.testing.assert_array_equal(packed.position_RT, [range(5), range(5)])
    np.testing.assert_array_equal(packed.weight_RT, [[0] * 5, [0, 1, 1, 1, 1]])
    assert packer.waiting == [([110, 111], 0)]


def test_what_waits_is_the_whole_state():
    """Saved as JSON after three batches, and resumed, the stream goes on as if nothing had been."""
    drawn = []
    watched = (drawn.append(item) or item for item in stream())
    packer = DocumentPacker(watched, rows=4, row_length=12, pad_id=PAD)
    for _ in range(3):
        next(packer)
    resumed = DocumentPacker(itertools.islice(stream(), len(drawn), None), rows=4, row_length=12, pad_id=PAD)
    resumed.waiting = json.loads(json.dumps(packer.waiting))
    assert resumed.waiting, "the case should leave something waiting"
    for _ in range(5):
        for want, got in zip(next(packer), next(resumed), strict=True):
            np.testing.assert_array_equal(got, want)
