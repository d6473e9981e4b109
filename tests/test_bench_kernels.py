"""Kernels are compared on equal results, and the page says which did what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import kernel_cases, kernels, page_kernels
from bench.kernel_cases import Attention, Case, Experts, Head

CASES = {
    "experts": lambda: kernel_cases.experts_case("tiny", Experts(48, 16, 8, 8, 2), "float32"),
    "attention": lambda: kernel_cases.attention_case("tiny", Attention(2, 136, 4, 2, 16, 8), "float32"),
    "cross-entropy": lambda: kernel_cases.head_case("tiny", Head(40, 16, 96), "float32"),
}


def test_every_piece_of_work_is_in_the_case():
    assert set(CASES) == set(kernel_cases.OPS)


@pytest.mark.parametrize("op", CASES)
def test_choices_give_what_the_first_does(op):
    case = CASES[op]()
    choices = {name: choice for name, choice in case.choices.items() if name not in ("Pallas megablox", "tokamax")}
    assert next(iter(choices)).startswith("own") and len(choices) >= 3, "r1jax's own stands first, beside others"
    found = {
        name: jax.jit(kernels.passes(choice)["forward and backward"])(case.moved, case.fixed)
        for name, choice in choices.items()
    }
    expected = found[next(iter(choices))]
    assert len(jax.tree.leaves(expected)) == 1 + len(case.moved)
    for name, one in found.items():
        assert kernels.difference(one, expected) < 1e-5, name


def test_own_experts_are_the_sum_over_the_chosen_ones():
    """In float64, a token at a time: the shares of the experts with the best scores of the best groups."""
    shape = Experts(24, 16, 8, 8, 2)
    case = kernel_cases.experts_case("tiny", shape, "float32")
    x_RTD, gate, up, down, router = (np.asarray(x, np.float64) for x in case.moved)
    found = np.asarray(jax.jit(case.choices["own"])(case.moved, case.fixed), np.float64).reshape(shape.tokens, -1)
    for x_D, y_D in zip(x_RTD.reshape(shape.tokens, -1), found, strict=True):
        score_E = 1 / (1 + np.exp(-x_D @ router))
        best_two = np.sort(score_E.reshape(4, 2), axis=1).sum(axis=1)
        kept = np.repeat(np.isin(np.arange(4), np.argsort(-best_two)[:2]), 2)
        chosen = np.argsort(-np.where(kept, score_E, -1))[:2]
        share = 2.5 * score_E[chosen] / score_E[chosen].sum()
        hidden = [(x_D @ gate[e]) / (1 + np.exp(-x_D @ gate[e])) * (x_D @ up[e]) for e in chosen]
        expected = sum(s * h @ down[e] for s, h, e in zip(share, hidden, chosen, strict=True))
        np.testing.assert_allclose(y_D, expected, rtol=1e-4, atol=1e-5)


def test_work_done_several_times_is_all_done():
    summed = kernels.several(lambda moved, fixed: moved[0] * fixed[0], 5)((jnp.arange(1.0, 5.0),), (jnp.float32(3.0),))
    assert summed.tolist() == [15, 30, 45, 60]


def choice_that_raises(moved, fixed):
    raise NotImplementedError("nothing of the kind here")


def test_a_wrong_or_missing_kernel_has_a_line_that_says_so():
    own = lambda moved, fixed: moved[0] * fixed[0]  # noqa: E731
    wrong = lambda moved, fixed: moved[0] * fixed[0] * 1.01  # noqa: E731
    case = Case(
        "op", "shape", (jnp.arange(4.0),), (jnp.float32(3.0),), 1.0,
        {"own": own, "wrong": wrong, "missing": choice_that_raises},
    )  # fmt: skip
    lines = kernels.measured(case, "float32", 2)
    by = {(line["choice"], line["pass"]): line for line in lines}
    assert len(by) == 6
    assert "failed" not in by["own", "forward"] and by["own", "forward"]["n"] == 2
    assert by["wrong", "forward"]["failed"].startswith("differs by 1.0e-02")
    assert by["missing", "forward"]["failed"] == "NotImplementedError: nothing of the kind here"
    with pytest.raises(NotImplementedError):
        kernels.measured(case._replace(choices={"own": choice_that_raises}), "float32", 1)


def line(choice, kind, **more):
    return {
        "measure": "kernel", "op": "experts", "shape": "moe-S", "choice": choice, "pass": kind, "dtype": "float32",
        "platform": "cpu",
    } | more  # fmt: skip


def test_the_page_marks_the_cheapest_and_names_what_is_missing():
    cost = dict(value=0.004, temp_mib=7.4, n=5)
    lines = [
        line("tokamax", "forward", cpu_s=0.002, failed="differs by 1", **cost),
        line("own", "forward", cpu_s=0.003, **cost),
        line("ragged_dot", "forward", cpu_s=0.01, **cost),
        line("own", "forward", platform="TPU v5 lite", temp_mib=1.0, n=1, chip_flops=197e9, chip_bytes=1.0),
        {"measure": "startup"},
    ]  # fmt: skip
    text = page_kernels.section(lines)
    assert "| experts, moe-S | own | **3 ms, 7 MiB** |  |" in text
    assert "| experts, moe-S | ragged_dot | 10 ms, 7 MiB |  |" in text
    assert "| experts, moe-S | tokamax | cannot: differs by 1 |  |" in text
    assert text.index("| own |") < text.index("| tokamax |")
    assert "### GPU\n\nnot measured" in text
    assert "197 GFLOP, 1e-06 MB, at least 1 ms, 1.0 MiB" in text
    assert page_kernels.section([{"measure": "startup"}]) == ""
