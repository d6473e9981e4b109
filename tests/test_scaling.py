"""experiments/scaling: costs against sums by hand, how bounds behave, and docs/scaling.md against what is computed."""

import math

import pytest

from experiments.scaling import bounds, page, tables, work
from experiments.scaling.chips import CHIPS, H200, V5P, V6E, Piece, torus_pieces
from experiments.scaling.network import AXES, links
from r1jax.models.policy import mtp_parameter_count, parameter_count
from tests import tiny_policy as tiny

V3, MOONLIGHT, QWEN = tables.POLICIES.values()
EXPERTS = 58 * 256 * 3 * 7168 * 2048  # of DeepSeek-V3: layers, experts, matrices
ALONE = sum(w.size for w in work.weights(V3) if not w.spread)  # that no axis spreads, but for `tensor`
ONE = dict.fromkeys(AXES, 1)


def mesh(**sizes: int) -> dict[str, int]:
    return ONE | sizes


def test_the_page_is_what_the_script_computes():
    text = page.PAGE.read_text(encoding="utf-8")
    assert sorted(found[2] for found in page.PLACE.finditer(text)) == sorted(tables.TABLES)
    assert page.filled(text) == text, "docs/scaling.md is stale: python -m experiments.scaling.page"


def test_a_page_that_was_changed_by_hand_is_found_out():
    text = page.PAGE.read_text(encoding="utf-8").replace("| v5p | 459 T", "| v5p | 460 T")
    assert page.filled(text) != text


@pytest.mark.parametrize("policy", tables.POLICIES.values(), ids=tables.POLICIES)
def test_every_parameter_is_counted_once(policy):
    """Against the count that tests/test_presets.py holds against the published ones."""
    assert sum(w.size for w in work.weights(policy)) == parameter_count(policy)[0] - mtp_parameter_count(policy)[0]


def test_the_published_step_has_the_flops_that_we_count():
    """MaxText counts by its own code: 152.415 TFLOP/s on 512 chips for 90.668 s."""
    ours = tables.published_bound().model_flops
    assert ours == pytest.approx(152.415e12 * 512 * 90.668, rel=0.01)


def test_gathers_by_hand():
    """Of a dense policy on fsdp=4: three quarters of all, in bfloat16, but for what has no width to be split."""
    p = tiny.DENSE
    assert sum(work.gathered_bytes(p, mesh(fsdp=4)).values()) == pytest.approx(
        2 * 0.75 * sum(w.size for w in work.weights(p) if w.spread)
    )
    assert work.gathered_bytes(p, ONE) == {}
    # DeepSeek-V3: 58 layers of 256 experts of three matrices; those alone are gathered over fsdp without expert.
    got = sum(work.gathered_bytes(V3, mesh(fsdp=64, expert=16)).values())
    rest = parameter_count(V3)[0] - mtp_parameter_count(V3)[0] - EXPERTS - ALONE
    assert got == pytest.approx(2 * (EXPERTS / 16 + rest) * 63 / 64, rel=0.01)


def test_gradients_are_summed_where_tokens_are_split_and_parameters_are_not():
    """Experts of expert=16 have all their tokens there; what is not of experts is summed over those chips, too."""
    rest = parameter_count(V3)[0] - mtp_parameter_count(V3)[0] - EXPERTS - ALONE
    got = work.reduced_bytes(V3, mesh(data=2, fsdp=64))
    assert sum(got.values()) == pytest.approx(2 * 2 * ((EXPERTS + rest) / 64 / 2 + ALONE * 127 / 128), rel=0.01)
    got = work.reduced_bytes(V3, mesh(fsdp=64, expert=16))
    assert sum(got.values()) == pytest.approx(2 * 2 * (rest / 64 * 15 / 16 + ALONE * 1023 / 1024), rel=0.02)


def test_all_to_all_by_hand():
    """Eight copies of a vector of 7,168 bfloat16 numbers, seven eighths of which leave the chip, in 58 layers."""
    assert work.routed_bytes(V3, mesh(expert=8), tokens=10) == 10 * 8 * 7168 * 2 * 58 * 7 / 8
    assert work.routed_bytes(V3, ONE, tokens=10) == 0


def test_state_by_hand():
    """Bfloat16 parameters and reference, two moments, gradients and a master copy in float32: 20 bytes each."""
    size = sum(w.size for w in work.weights(V3))
    assert work.state_bytes(V3, ONE) == 20 * size
    assert work.state_bytes(QWEN, ONE) == 20 * sum(w.size for w in work.weights(QWEN))  # float32, and no master copy
    # What is not of experts is whole along `expert`.
    each = 20 * (EXPERTS / 1024 + (size - EXPERTS - ALONE) / 64 + ALONE)
    assert work.state_bytes(V3, mesh(fsdp=64, expert=16)) == pytest.approx(each, rel=0.01)


def test_latents_by_hand():
    assert work.latent_width(V3) == 512 + 64 and work.latent_width(QWEN) == 2 * 2 * 128


def test_flops_of_a_decoded_token_by_hand():
    """Latents of 512 are values and, with 64 rotated channels, keys of 128 heads in 61 layers."""
    flops = bounds.decode_flops(V3, 1000) - bounds.decode_flops(V3, 0)
    assert flops == 2 * 61 * 128 * (512 + 64 + 512) * 1000


@pytest.mark.parametrize(
    ("chip", "chips", "shape"),
    [
        (V5P, 4, (2, 2, 1)),
        (V5P, 16, (2, 2, 4)),
        (V5P, 512, (8, 8, 8)),
        (V5P, 1024, (8, 8, 16)),
        (V6E, 16, (4, 4)),
        (V6E, 256, (16, 16)),
    ],
)
def test_slices_have_the_shapes_that_there_are(chip, chips, shape):
    assert chip.shape(chips) == shape


def test_axes_take_whole_dimensions_of_the_torus_where_they_fit():
    pieces = torus_pieces(V5P, 1024, dict(fsdp=64, expert=16))
    assert pieces == {"fsdp": [Piece(8, 1, True), Piece(8, 1, True)], "expert": [Piece(16, 1, True)]}
    split = torus_pieces(V6E, 256, dict(fsdp=64, expert=4))  # of 16 x 16: 16 and 4, and what the last leaves
    assert split["fsdp"] == [Piece(16, 1, True), Piece(4, 1, False)] and split["expert"] == [Piece(4, 4, True)]


@pytest.mark.parametrize("chips", [4, 16, 64, 256, 1024])
def test_every_mesh_fits_into_its_torus(chips):
    for chip in (V5P, V6E):
        for sizes in bounds.meshes(MOONLIGHT, chip, chips):
            within = {axis: size for axis, size in sizes.items() if size > 1 and axis != "data"}
            pieces = torus_pieces(chip, chips // chip.slices(chips), within)
            assert {axis: math.prod(p.extent for p in taken) for axis, taken in pieces.items()} == within


def test_rates_by_hand():
    """v5p: 100 GB/s a port. Two rings of 8: four ports. All-to-all on a ring of 16: 16/8 of the bytes over one port."""
    net = links(V5P, mesh(fsdp=64, expert=16))
    assert net.gather_seconds(("fsdp",), 400e9) == pytest.approx(1.0)
    assert net.gather_seconds(("fsdp", "expert"), 600e9) == pytest.approx(1.0)
    assert net.exchange_seconds("expert", 100e9) == pytest.approx(16 / 8)
    # H200: 8 GPUs share what comes over their 8 cards of 50 GB/s; within a machine NVLink, 450 GB/s.
    machine = links(H200, mesh(fsdp=64, tensor=8))
    assert machine.gather_seconds(("tensor",), 450e9) == pytest.approx(1.0)
    assert machine.gather_seconds(("fsdp",), 50e9) == pytest.approx(1.0)
    assert links(H200, mesh(fsdp=64)).gather_seconds(("fsdp",), 400e9) == pytest.approx(1.0)
    # v6e: from 256 chips on there are slices, which 12.5 GB/s a chip join.
    assert links(V6E, mesh(data=4, fsdp=256)).gather_seconds(("data",), 12.5e9) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="only data crosses slices"):
        links(V6E, mesh(fsdp=512))


def test_a_bound_is_the_longest_of_its_parts():
    b = bounds.training(V3, V5P, mesh(fsdp=64, expert=16), rows=1024, row_tokens=8192)
    parts = dict(b.seconds)
    assert (
        b.least == max(parts.values())
        and parts[b.binding] == b.least
        and b.summed == pytest.approx(sum(parts.values()))
    )
    assert parts["compute"] == pytest.approx(4 / 3 * b.model_flops / 1024 / 459e12)
    assert b.mfu <= 0.75  # remat


def test_micro_batches_cost_gathers_and_save_memory():
    whole, parts = (bounds.training(V3, V5P, mesh(fsdp=512), rows=512, row_tokens=32768, micro=m) for m in (1, 4))
    assert dict(parts.moved)["all-gather of parameters"] == 4 * dict(whole.moved)["all-gather of parameters"]
    assert parts.memory < whole.memory and dict(parts.seconds)["compute"] == dict(whole.seconds)["compute"]


def test_twice_the_rows_on_twice_the_chips_take_as_long_while_arithmetic_binds():
    small = bounds.training(QWEN, V5P, mesh(fsdp=64), rows=64, row_tokens=32768)
    large = bounds.training(QWEN, V5P, mesh(fsdp=128), rows=128, row_tokens=32768)
    assert small.binding == large.binding == "compute" and small.least == pytest.approx(large.least)


def test_experts_that_nobody_asks_for_are_not_read():
    one, many = (bounds.decoding(V3, V5P, mesh(expert=64), sequences=n, cache=0, longest=1) for n in (64, 64 * 64))
    size = sum(2 * w.size / (64 if w.routed else 1) for w in work.weights(V3)) - 2 * 129_280 * 7168
    assert dict(many.seconds)["memory"] * V5P.memory_rate == pytest.approx(size, rel=1e-2)
    assert dict(one.seconds)["memory"] < dict(many.seconds)["memory"]


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_what_is_chosen_fits_and_no_other_mesh_is_better(chip):
    best = bounds.best_training(MOONLIGHT, chip, 64, 512, 32768)
    assert best is not None and bounds.fits(best, chip) and best.chips == 64
    for sizes in bounds.meshes(MOONLIGHT, chip, 64):
        if 512 % work.ways(sizes, ("data", "fsdp", "expert")) == 0:
            other = bounds.training(MOONLIGHT, chip, sizes, rows=512, row_tokens=32768)
            assert other.least >= best.least or not bounds.fits(other, chip)


def test_what_fits_nowhere_is_said():
    assert bounds.best_training(V3, H200, 8, 512, 32768) is None
    # 20 bytes a parameter, of 671.03 G over 8 chips.
    assert tables.state(V3, H200, 8).startswith("does not fit: 1.68 TB")


def test_scaling_stops_where_a_doubling_brings_too_little():
    assert tables.stop([None, 8.0, 4.5, 4.0]) == 2
    assert tables.stop([8.0, 4.0]) == 1 and tables.stop([8.0, None]) == 0 and tables.stop([None]) is None
