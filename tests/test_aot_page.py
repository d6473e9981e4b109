"""docs/aot.md shows what the compiler said, and what it said is what the configs promise."""

import importlib
import re

import pytest

from experiments.aot import measure

RESULT = dict(
    file="r1.py:2", topology="v5e:2x4", slices=2, program="rl_step", mesh={"data": 2, "fsdp": 8},
    sequences=4, tokens=400,
    hbm={"limit": 16 * 2**30, "arguments": 2**30, "temporaries": 3 * 2**29, "total": 5 * 2**29},
    sent={"all-gather": 2**30, "all-reduce": 2**30}, model_flops=1.25e15, compile_s=61.4,
    arrays=[dict(bytes=2**29, kind="argument", shape="f32[2,3]", source="params['gate_EDF']")],
    collectives=[
        dict(bytes=2**30, open_ended=True, times=2000, kind="all-gather", shape="bf16[8]", group=8, source="moe/cast")
    ],
)  # fmt: skip


def test_a_row_and_what_stands_below_it():
    made = measure.tables([RESULT])
    assert (
        "| r1 | 2 x v5e:2x4 | rl_step | data 2 fsdp 8 | 4 x 100 | 1.0 | 1.5 | 2.5 | 16.0 | 2.0 | 1.25e+15 | 61 |"
        in made
    )
    assert "| 0.50 | argument `f32[2,3]` params['gate_EDF'] |" in made
    assert "| 1.00 a pass | 2,000 x all-gather `bf16[8]` over 8, moe/cast |" in made


def test_the_page_keeps_what_is_written_by_hand():
    assert measure.put("a\n<!-- tables -->\nold\n<!-- end -->\nb\n", "new\n") == (
        "a\n<!-- tables -->\nnew\n<!-- end -->\nb\n"
    )
    with pytest.raises(ValueError, match="<!-- tables -->"):
        measure.put("a\n", "new\n")


def test_the_page_is_of_the_results():
    page = measure.PAGE.read_text(encoding="utf-8")
    assert page == measure.put(page, measure.tables(measure.load()))


def config(file):
    """By the name that the verb was given, with what stands behind its colon."""
    name, _, argument = file.partition(".py:")
    return importlib.import_module(f"configs.{name.removesuffix('.py')}").get_config(*[argument] * bool(argument))


@pytest.mark.parametrize("result", measure.load(), ids=lambda result: "-".join(str(result[key]) for key in measure.KEY))
def test_what_was_compiled_fits_and_gathers_no_stack(result):
    assert result["fits"] and result["hbm"]["total"] <= result["hbm"]["limit"]
    assert result["compile_s"] < 600
    policy = next(iter(config(result["file"]).stages.values())).policy
    layers = {policy.dense_layers, policy.layers - policy.dense_layers} - {0, 1}
    gathered = [x["shape"] for x in result["collectives"] if x["kind"] == "all-gather"]
    assert not [shape for shape in gathered if int(re.split(r"[\[,\]]", shape)[1]) in layers]
