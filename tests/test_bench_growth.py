"""One thing grows at a time, what is said of it is counted by hand, and a point is what it is called."""

import dataclasses
import math

import pytest

from bench import growth, page_growth
from bench.growth import Rollout, Update
from r1jax.models.policy import parameter_count


def point(axis, series, size, **more):
    usual = dict(
        value=1.0, cpu_s=1.0, cpu_span=[0.9, 1.2], n=5, peak_mib=300.0, base_mib=200.0, flops=1.0, pair_flops=0.0
    )
    return {"measure": "growth", "axis": axis, "series": series, "x": size} | usual | more


def test_flops_are_the_layers_pairs_and_the_rest():
    policy = growth.dense()
    weights = 4 * 128 * 64 + 3 * 64 + 3 * 128 * 384 + 128 * 1024 + 3 * 128  # attention, its biases, ffn, head, norms
    counted = growth.flops(Update(policy, 2, 3))
    assert counted["pair_flops"] == 3 * 2 * (6 * 2 * 2 * 64), "rows, pairs, 2 FLOPs, heads, key and value channels, x3"
    assert counted["flops"] - counted["pair_flops"] == pytest.approx(3 * 2 * 6 * weights)
    sampled = growth.flops(Rollout(policy, 1, 2, 1, 2))
    assert sampled["flops"] == pytest.approx(counted["flops"] / 3), "a rollout is a forward pass of as many tokens"


@pytest.mark.parametrize("axis", growth.AXES)
def test_one_thing_grows(axis):
    for works in growth.AXES[axis].values():
        assert len(works) >= 3 and list(works) == sorted(works)
        first, *others = works.values()
        for other in others:
            changed = {name for name, a, b in zip(first._fields, first, other, strict=True) if a != b}
            assert len(changed) == 1, changed


def test_experts_grow_at_a_fixed_active_share():
    few, many = (growth.mixture(n) for n in (4, 64))
    routers = 3 * 256 * (64 - 4)
    assert parameter_count(many)[1] - parameter_count(few)[1] == routers
    assert parameter_count(many)[0] > 3 * parameter_count(few)[0] // 2


def test_a_point_is_measured():
    small = dataclasses.replace(growth.dense(16), width=32, dense_ffn=32, vocab_size=64)
    for work in (Update(small, 2, 24), Rollout(small, 1, 2, 4, 3)):
        found = growth.measured(work, 2)
        assert found["n"] == 2 and 0 < found["span"][0] <= found["value"] <= found["span"][1]
        assert found["cpu_span"][0] <= found["cpu_s"] <= found["cpu_span"][1]
        assert found["peak_mib"] >= found["base_mib"] > 0
        assert found["parameters"] == parameter_count(small)[0]


def test_the_crossing_is_where_pairs_cost_what_tokens_do():
    """A token costs 10 and a pair 0.5: at length L there are L tokens and about L^2 / 2 pairs, equal at L = 40."""
    points = [
        point("update-length", "", n, flops=10.0 * n + 0.5 * n * (n + 1) / 2, pair_flops=0.5 * n * (n + 1) / 2)
        for n in (10, 40, 1000)
    ]
    assert page_growth.crossing(points) == pytest.approx(40)


def test_bends_are_told_by_the_slopes_before_and_after():
    seconds = {16: 1.0, 64: 4.0, 1024: 1024.0}
    points = [
        point(
            "update-length",
            "whole",
            n,
            cpu_s=s,
            flops=16.0 * n + 0.5 * n * (n + 1) / 2,
            pair_flops=0.5 * n * (n + 1) / 2,
        )
        for n, s in seconds.items()
    ]
    assert page_growth.slope(*points[:2], "cpu_s") == pytest.approx(1.0)
    text = page_growth.bends(points)
    assert "from 64 tokens on" in text
    assert f"is 1.00 up to 64 tokens and {math.log(256) / math.log(16):.2f} from there on" in text


def test_the_page_has_every_axis_and_what_failed():
    lines = [point(axis, series, n) for axis, all_of in growth.AXES.items() for series in all_of for n in (4, 8)]
    lines.append({"measure": "growth", "axis": "experts", "series": "update", "x": 256, "failed": "exit 1"})
    text = page_growth.section(lines, "growth.svg")
    assert "](growth.svg)" in text and "- not measured: experts update 256 (exit 1)" in text
    for _, sizes in page_growth.TITLES.values():
        assert f"| {sizes} |" in text
    drawn = page_growth.figure(lines)
    assert all(sizes in drawn for _, sizes in page_growth.TITLES.values())
    assert page_growth.section([{"measure": "kernel"}], "growth.svg") == ""
