"""Imported models against transformers: from committed fixtures always, live where transformers is installed."""

import dataclasses
import functools
import importlib
import importlib.util
import json

import hf_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_policy

from r1jax.config import PolicyConfig
from r1jax.mesh import make_mesh, state_shardings
from r1jax.models.hf_config import hf_config, policy_config
from r1jax.models.hf_weights import places, read_variables, tensors
from r1jax.models.policy import abstract_variables
from r1jax.models.tensor_files import TensorFiles, write_sharded
from r1jax.stages.inference import NOT_IN_WEIGHTS

FAMILIES = sorted(hf_models.FAMILIES)
live = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the dev extra")


def read(folder, mesh=None, **change):
    hf = json.loads((folder / "config.json").read_text()) | change
    policy = policy_config(hf, dtype="float32", param_dtype="float32")
    mesh = mesh or tiny_policy.one_device()
    with TensorFiles(folder) as files:
        return policy, read_variables(policy, files, state_shardings(mesh, abstract_variables(policy)))


@functools.cache
def imported(family):
    return read(hf_models.FIXTURES / family)


@functools.cache
def expected(family):
    with np.load(hf_models.FIXTURES / family / "expected.npz") as file:
        return dict(file)


def logits_of(policy, variables, tokens_BL):
    packed = tiny_policy.rows([list(map(int, row)) for row in tokens_BL], tokens_BL.shape[1])
    return np.asarray(tiny_policy.forward(policy)(variables, packed)[0])


def mean_logp(policy, params, router, packed, tokens_BL):
    logits = tiny_policy.apply(policy, {"params": params, "router": router}, packed)[0]
    logp = jax.nn.log_softmax(logits[:, :-1])
    return jnp.take_along_axis(logp, tokens_BL[:, 1:, None], -1).mean()


def gradients_of(policy, variables, tokens_BL):
    """By the names of the files' tensors."""
    packed = tiny_policy.rows([list(map(int, row)) for row in tokens_BL], tokens_BL.shape[1])
    grad = tiny_policy.jit(jax.grad(functools.partial(mean_logp, policy)))
    params = grad(variables["params"], variables["router"], packed, jnp.asarray(tokens_BL))
    tree = {"params": params, "router": jax.tree.map(jnp.zeros_like, variables["router"])}
    return {t.name: t.make() for t in tensors(policy, tree, np.dtype(np.float32))}


def greedy(policy, variables):
    engine = tiny_policy.engine(tiny_policy.one_device(), config=policy, stop_ids=())
    seeds = np.zeros(len(hf_models.PROMPTS), np.uint32)
    with tiny_policy.quick():
        out = engine.generate(
            variables, hf_models.prompts(), seeds, temperature=0.0, top_k=0, top_p=1.0, max_tokens=hf_models.NEW
        )
    return out.completion_BL


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_transformers_computed(family):
    policy, variables = imported(family)
    got = logits_of(policy, variables, hf_models.inputs())[0, :: hf_models.STRIDE]
    want = expected(family)["logits"]
    assert np.abs(want).max() > 1  # not a model that says nothing
    assert np.abs(got - want).max() <= 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_completions_of_ragged_prompts_are_transformers_own(family):
    policy, variables = imported(family)
    np.testing.assert_array_equal(greedy(policy, variables), expected(family)["greedy"])


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if "grouped" in name else pytest.mark.slow) for name in FAMILIES]
)
def test_gradient_norms_are_those_transformers_computed(family):
    policy, variables = imported(family)
    got = gradients_of(policy, variables, hf_models.inputs())
    want = {name.removeprefix("gradient/"): norm for name, norm in expected(family).items() if "/" in name}
    for name, norm in want.items():
        if ".experts.gate_up_proj" in name or ".experts.down_proj" in name:
            continue  # transformers holds the experts together; the live test takes them apart
        np.testing.assert_allclose(np.linalg.norm(got[name].astype(np.float64)), norm, rtol=1e-3, err_msg=name)


@pytest.mark.slow
@live
@pytest.mark.parametrize("family", FAMILIES)
def test_live_logits_gradients_and_export(family, tmp_path, capsys):
    """Another draw than the fixture's; then what r1jax writes, opened by transformers."""
    from transformers import AutoModelForCausalLM

    model = hf_models.make(family, seed=7)
    said = hf_models.answers(model)
    model.save_pretrained(tmp_path / "hf")
    policy, variables = read(tmp_path / "hf")
    tokens_BL = hf_models.inputs()
    worst = np.abs(logits_of(policy, variables, tokens_BL) - said["logits"]).max()
    assert worst <= 1e-4
    np.testing.assert_array_equal(greedy(policy, variables), said["greedy"])
    off = compare_gradients(gradients_of(policy, variables, tokens_BL), said)
    assert off <= 1e-3

    (tmp_path / "out").mkdir()
    names = write_sharded(tmp_path / "out", tensors(policy, variables, np.dtype(np.float32)), 20_000)
    assert len(names) > 2
    (tmp_path / "out" / "config.json").write_text(json.dumps(hf_config(policy)))
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    again = hf_models.answers(opened)["logits"]
    assert np.abs(again - said["logits"]).max() <= 1e-4
    with capsys.disabled():
        print(f"\n{family}: logits differ by {worst:.1e}, gradients by {off:.1e} relative", end="")


def compare_gradients(got, said):
    """The largest difference of a gradient, relative to that gradient's largest entry."""
    worst, seen = 0.0, 0
    for key, want in said.items():
        if not key.startswith("gradient/"):
            continue
        name = key.removeprefix("gradient/")
        if name.endswith("experts.gate_up_proj"):
            base = name.removesuffix("gate_up_proj")
            have = np.stack(
                [
                    np.concatenate([got[f"{base}{e}.{part}_proj.weight"] for part in ("gate", "up")])
                    for e in range(want.shape[0])
                ]
            )
        elif name.endswith("experts.down_proj"):
            base = name.removesuffix("down_proj")
            have = np.stack([got[f"{base}{e}.down_proj.weight"] for e in range(want.shape[0])])
        else:
            have = got[name]
        worst = max(worst, np.abs(have - want).max() / np.abs(want).max())
        seen += 1
    assert seen > 10
    return worst


@pytest.mark.parametrize("family", FAMILIES)
def test_every_array_and_every_tensor_is_used_once(family):
    policy, variables = imported(family)
    leaves = {tuple(k.key for k in path) for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0]}
    unread = leaves - {place.path for place in places(policy)}
    assert unread <= {("router", "moe", "moe", "bias_E")}
    if unread:
        assert policy.score == "softmax"


@pytest.mark.parametrize("family", ["deepseek_v3_grouped", "qwen2"])
def test_a_sharded_mesh_reads_the_same_numbers(family):
    mesh = make_mesh(dataclasses.replace(tiny_policy.ONE_DEVICE, fsdp=4, tensor=2))
    _, whole = imported(family)
    _, parts = read(hf_models.FIXTURES / family, mesh)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(parts))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_reads_back_bitwise(family, tmp_path):
    policy, variables = imported(family)
    write_sharded(tmp_path, tensors(policy, variables, np.dtype(np.float32)), 50_000)
    (tmp_path / "config.json").write_text(json.dumps(hf_config(policy)))
    again_policy, again = read(tmp_path)
    assert again_policy == policy
    jax.tree.map(np.testing.assert_array_equal, variables, again)


PUBLISHED = {  # the files' own numbers, as their makers publish them
    "deepseek_v3": dict(
        model_type="deepseek_v3", vocab_size=129280, hidden_size=7168, intermediate_size=18432, num_hidden_layers=61,
        num_attention_heads=128, num_key_value_heads=128, n_shared_experts=1, n_routed_experts=256, n_group=8,
        topk_group=4, num_experts_per_tok=8, first_k_dense_replace=3, moe_layer_freq=1, moe_intermediate_size=2048,
        norm_topk_prob=True, scoring_func="sigmoid", topk_method="noaux_tc", routed_scaling_factor=2.5,
        kv_lora_rank=512, q_lora_rank=1536, qk_rope_head_dim=64, v_head_dim=128, qk_nope_head_dim=128,
        hidden_act="silu", rms_norm_eps=1e-6, rope_theta=10000, max_position_embeddings=163840,
        rope_scaling=dict(beta_fast=32, beta_slow=1, factor=40, mscale=1.0, mscale_all_dim=1.0,
                          original_max_position_embeddings=4096, type="yarn"),
        num_nextn_predict_layers=1, tie_word_embeddings=False, attention_bias=False,
        quantization_config=dict(quant_method="fp8", fmt="e4m3", weight_block_size=[128, 128]),
    ),
    "qwen2_5_0_5b": dict(
        model_type="qwen2", vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1000000.0, hidden_act="silu",
        max_position_embeddings=32768, tie_word_embeddings=True, use_sliding_window=False, sliding_window=32768,
    ),
    "qwen3_8b": dict(
        model_type="qwen3", vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, rms_norm_eps=1e-6, rope_theta=1000000,
        max_position_embeddings=40960, tie_word_embeddings=False, attention_bias=False, rope_scaling=None,
    ),
    "r1_distill_llama_8b": dict(
        model_type="llama", vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, rms_norm_eps=1e-5, rope_theta=500000.0,
        max_position_embeddings=131072, tie_word_embeddings=False, attention_bias=False, mlp_bias=False,
        rope_scaling=dict(factor=8.0, high_freq_factor=4.0, low_freq_factor=1.0,
                          original_max_position_embeddings=8192, rope_type="llama3"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_the_preset_of_that_name(name):
    read = policy_config(PUBLISHED[name], dtype="float32", param_dtype="float32")
    preset = PolicyConfig(**importlib.import_module(f"configs.models.{name}").get_config())
    differing = {
        field.name: (getattr(read, field.name), getattr(preset, field.name))
        for field in dataclasses.fields(PolicyConfig)
        if getattr(read, field.name) != getattr(preset, field.name)
    }
    assert differing.keys() <= {*NOT_IN_WEIGHTS, "param_dtype", "mtp_layers"}, differing
