"""The real TPU compiler on a small policy: what it says of memory and traffic, against numbers worked by hand."""

import functools
import importlib.util
from typing import Any

import pytest

from configs import meshes, r1_1_5b, smoke
from r1jax import aot
from r1jax.config import AnyStage, stage_config, to_dict
from r1jax.models.policy import parameter_count
from r1jax.pipeline import pipeline_stages
from r1jax.rollout.engine import readings
from r1jax.stages.programs import PROGRAMS, choose

if not importlib.util.find_spec("libtpu"):
    pytest.skip("the TPU's compiler is not installed: pip install libtpu", allow_module_level=True)

V, D, F, H, C, N = 2048, 1024, 2048, 8, 128, 2
ROWS, LENGTH, CHIPS = 8, 256, 8
MATRICES = 2 * V * D + N * (4 * D * H * C + 3 * D * F)
NORMS = (2 * N + 1) * D
# Sizes are multiples of the chip's tiles of 8 x 128 numbers, so that nothing is padded.
DENSE = dict(
    vocab_size=V, width=D, layers=N, dense_layers=N, heads=H, kv_heads=H, head_dim=C, dense_ffn=F, context=2 * LENGTH,
    attention_block=0, tied=False, dtype="bfloat16",
)  # fmt: skip


def stage(mesh: dict[str, int] | None = None, **batch: int) -> AnyStage:
    config = smoke.get_config().stages.base
    with config.unlocked():
        config.policy = r1_1_5b.get_config().stages.sft.policy
        with config.policy.unlocked():
            config.policy.update(DENSE | dict(attention_bias=False, remat="none"))
        config.batch.update(dict(row_length=LENGTH, rows=ROWS, micro_rows=ROWS, logit_chunk=ROWS * LENGTH) | batch)
        config.mesh = mesh or meshes.tpu_slice()
        config.router.update(bias_rate=0.0, balance_coef=0.0)
        config.optimizer.update(rule="adamw")
    return stage_config(config)


@functools.cache
def chips() -> list:
    return aot.topology("v5e:2x4", 1)


@functools.cache
def limit() -> int:
    return aot.hbm_limit(chips())


def report(config: AnyStage) -> dict[str, Any]:
    program = PROGRAMS["sft_step"][1](config, aot.mesh_of(config, "sft_step", chips()))
    return aot.figures(program, aot.compile_program(program, limit()), parameter_count(config.policy), slices=1)


@functools.cache
def usual() -> dict[str, Any]:
    return report(stage())


def test_a_chip_holds_its_share_of_parameters_and_moments_and_the_whole_batch():
    assert usual()["parameters"] == MATRICES + NORMS
    state = 3 * 4 * (MATRICES // CHIPS + NORMS)  # float32, with two moments; norms are whole everywhere
    batch = 6 * 4 * ROWS * LENGTH
    assert usual()["hbm"]["arguments"] == pytest.approx(state + batch, rel=1e-2)
    assert usual()["hbm"]["outputs"] < 10_000, "the state is donated; only metrics are new"


def test_it_fits_and_the_sum_is_of_its_parts():
    hbm = usual()["hbm"]
    assert usual()["fits"] and usual()["over"] == 0
    assert hbm["total"] == hbm["arguments"] + hbm["outputs"] + hbm["temporaries"] + hbm["code"]
    assert 15 * 2**30 < hbm["limit"] < 16 * 2**30, "v5e has 16 GB a chip"


def test_parameters_are_gathered_and_gradients_summed():
    """In bfloat16 at least: each matrix but the embedding to every chip once, its gradient once, and not much more."""
    once = 2 * (MATRICES - V * D) * (CHIPS - 1) / CHIPS
    sent = sum(usual()["sent"].values())
    assert once < sent < 10 * once
    assert usual()["sent_between_slices"] == 0, "there is one slice"


def test_flops_are_the_model_s():
    tokens = ROWS * LENGTH
    pairs = ROWS * LENGTH * (LENGTH + 1) // 2
    forward = 2 * (MATRICES - V * D + NORMS) * tokens + 2 * N * H * 2 * C * pairs
    assert usual()["model_flops"] == pytest.approx(3 * forward, rel=1e-6)


def test_what_does_not_fit_says_by_how_much_and_what_is_largest():
    big = report(stage(row_length=8192, rows=64, micro_rows=64))  # whole scores: 16 GiB a layer and chip
    assert not big["fits"]
    assert big["over"] == big["hbm"]["total"] - big["hbm"]["limit"] > 2**30
    assert big["arrays"][0]["bytes"] > 2**30 and big["arrays"][0]["kind"] == "temporary"
    assert [x["bytes"] for x in big["arrays"]] == sorted((x["bytes"] for x in big["arrays"]), reverse=True)


@pytest.mark.parametrize(
    ("mesh", "batch", "message"),
    [
        (meshes.tpu_slice(), {"rows": 4, "micro_rows": 4}, r"micro_rows is 4; expected a multiple of the 8 devices"),
        (dict(data=1, fsdp=2, expert=1, tensor=1, context=4), {"row_length": 250}, r"multiple of mesh\.context \(4\)"),
        (dict(data=3, fsdp=1, expert=1, tensor=1, context=1), {}, r"does not match 8 devices"),
        (dict(data=1, fsdp=1, expert=8, tensor=1, context=1), {}, None),  # no experts: nothing to divide
    ],
)
def test_what_does_not_divide_is_named(mesh, batch, message):
    if message is None:
        aot.mesh_of(stage(mesh), "sft_step", chips())
        return
    with pytest.raises(ValueError, match=message):
        aot.mesh_of(stage(mesh, **batch), "sft_step", chips())


def test_heads_that_do_not_divide_are_named_with_dimension_and_axis():
    tree = to_dict(stage(dict(data=1, fsdp=1, expert=1, tensor=8, context=1)))
    tree["policy"] |= dict(heads=4, kv_heads=4)
    narrow = stage_config(tree)
    with pytest.raises(
        ValueError, match=r"k_DKC: dimension K of size 4 does not divide over mesh axis tensor of size 8"
    ):
        PROGRAMS["sft_step"][1](narrow, aot.mesh_of(narrow, "sft_step", chips()))


@pytest.mark.parametrize("name", ["v5z:2x4", "v5e:3x5", "many"])
def test_an_unknown_topology_is_named(name):
    with pytest.raises(ValueError, match=rf"topology is '{name}'.*refuses.*expected GENERATION"):
        aot.topology(name, 1)


def test_slices_are_joined_by_data():
    devices = aot.topology("v5e:2x4", 2)
    mesh = aot.make_mesh(stage(meshes.tpu_slice(slices=2)).mesh, devices)
    assert dict(mesh.shape)["data"] == 2 and dict(mesh.shape)["fsdp"] == 8
    first, second = mesh.devices.reshape(2, 8)
    assert {d.slice_index for d in first} == {0} and {d.slice_index for d in second} == {1}
    assert aot.hbm_limit(devices) == aot.hbm_limit(aot.topology("v5e:2x4", 1))
    with pytest.raises(ValueError, match=r"mesh\.data is 1 on 2 slices; expected a multiple of 2"):
        aot.make_mesh(stage().mesh, devices)


def test_the_stage_whose_program_is_meant():
    stages = pipeline_stages(smoke.get_config())
    assert choose(stages, "rl_step", "") is stages["zero"] and choose(stages, "sft_step", "base") is stages["base"]
    with pytest.raises(ValueError, match=r"'rl_step' is of a stage of kind RlStage; the config has base \(sft\)"):
        choose(stages, "rl_step", "base")
    with pytest.raises(ValueError, match=r"stage is 'nil'; the config has base, zero"):
        choose(stages, "rl_step", "nil")


@pytest.mark.parametrize(
    ("prompts", "samples", "ways", "times"),
    [(16, 16, 1, 1), (4, 3, 8, 3), (32, 16, 256, 8), (32, 16, 512, 16), (8, 4, 8, 1), (3, 5, 8, 5)],
)
def test_prompts_are_read_as_often_as_fills_the_devices(prompts, samples, ways, times):
    assert readings(prompts, samples, ways) == times
