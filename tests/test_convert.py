"""Conversion, whole: folders in and out, damaged ones, FP8, the verb, and stages that start from what was imported."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import hf_models
import jax
import ml_dtypes
import numpy as np
import pytest
import smoke_run
import tiny_policy
from test_verbs import run, start, together

import r1jax
from r1jax.data.hf_vocabulary import FILE, SETTINGS
from r1jax.models.hf_config import policy_config
from r1jax.models.hf_weights import tensors
from r1jax.models.tensor_files import INDEX, SINGLE, TensorFiles, ToWrite, write_sharded
from r1jax.stages.conversion import export_hf, import_hf

ROOT = Path(__file__).resolve().parent.parent
FLOAT = dict(dtype="float32", param_dtype="float32", template="")


def tensors_of(folder):
    with TensorFiles(folder) as files:
        return {name: files.read(name) for name in files.tensors}


def write(folder, tensors, shard_bytes=1 << 40):
    for old in folder.glob("model*"):
        old.unlink()
    write_sharded(folder, [ToWrite(n, x.dtype, x.shape, lambda x=x: x) for n, x in tensors.items()], shard_bytes)


@pytest.fixture
def source(tmp_path):
    """A copy of a fixture that a test may damage."""
    shutil.copytree(hf_models.FIXTURES / "deepseek_v3_grouped", tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "v3"
    import_hf(str(hf_models.FIXTURES / "deepseek_v3"), str(folder), **FLOAT)
    return folder


def test_an_imported_checkpoint_opens_and_leaves_again_bitwise(imported, tmp_path):
    with tiny_policy.quick():
        policy = r1jax.load(str(imported))
        with np.load(hf_models.FIXTURES / "deepseek_v3" / "expected.npz") as file:
            want = file["logits"]
        got = policy.logits(hf_models.inputs()[:1])[0, :: hf_models.STRIDE]
    assert np.abs(got - want).max() <= 1e-4
    result = export_hf(str(imported), str(tmp_path / "out"), param_dtype="", shard_bytes=40_000)
    assert result["files"] > 2 and (tmp_path / "out" / INDEX).exists()
    import_hf(str(tmp_path / "out"), str(tmp_path / "again"), **FLOAT)
    jax.tree.map(np.testing.assert_array_equal, policy.params, r1jax.load(str(tmp_path / "again")).params)
    # A file in the width it was published in holds the same numbers.
    export_hf(str(imported), str(tmp_path / "half"), param_dtype="bfloat16", shard_bytes=1 << 40)
    before, after = tensors_of(hf_models.FIXTURES / "deepseek_v3"), tensors_of(tmp_path / "half")
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array.astype(np.float32), after[name].astype(np.float32), err_msg=name)
    for name in (FILE, SETTINGS, "generation_config.json"):
        assert (tmp_path / "half" / name).read_bytes() == (hf_models.FIXTURES / "deepseek_v3" / name).read_bytes()


def test_an_imported_array_whose_file_is_gone_is_an_error(imported, tmp_path):
    """Its chunks are files of their own; a missing one must not be read as zeros."""
    shutil.copytree(imported, tmp_path / "in")
    next((tmp_path / "in" / "checkpoints" / "0" / "params").glob("params.embed_VD/[0-9]*")).unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        r1jax.load(str(tmp_path / "in"))


def damage_missing(folder, tensors):
    del tensors["model.layers.1.mlp.experts.3.up_proj.weight"]
    write(folder, tensors)


def damage_extra(folder, tensors):
    write(folder, tensors | {"model.layers.1.mlp.experts.8.up_proj.weight": tensors["model.norm.weight"]})


def damage_shape(folder, tensors):
    write(folder, tensors | {"model.layers.2.self_attn.kv_b_proj.weight": np.zeros((5, 16), np.float32)})


def damage_truncated(folder, tensors):
    path = folder / SINGLE
    path.write_bytes(path.read_bytes()[:-10])


def damage_shard(folder, tensors):
    write(folder, tensors, 40_000)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def damage_index(folder, tensors):
    write(folder, tensors, 40_000)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = sorted(index["weight_map"].values())[0]
    (folder / INDEX).write_text(json.dumps(index))


def damage_header(folder, tensors):
    (folder / SINGLE).write_bytes((200).to_bytes(8, "little") + b"{" * 300)


def damage_tokenizer(folder, tensors):
    (folder / FILE).write_text((folder / FILE).read_text()[:-40])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (damage_missing, r"model\.layers\.1\.mlp\.experts\.3\.up_proj\.weight is missing"),
        (damage_extra, r"model\.layers\.1\.mlp\.experts\.8\.up_proj\.weight .* has no place"),
        (damage_shape, r"model\.layers\.2\.self_attn\.kv_b_proj\.weight .* is \[5, 16\]; expected \[64, 16\]"),
        (damage_truncated, r"tensor .* truncated"),
        (damage_shard, r"model-00002-of-.* cannot be read"),
        (damage_index, r"tensor model\.norm\.weight is not in"),
        (damage_header, "damaged header"),
        (damage_tokenizer, f"{FILE} is damaged"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_checkpoint_is_named_and_nothing_is_left(source, tmp_path, damage, named):
    damage(source, tensors_of(source))
    with pytest.raises(ValueError, match=named):
        import_hf(str(source), str(tmp_path / "to"), **FLOAT)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "gemma"}, "model_type is 'gemma'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"kv_lora_rank": None}, "lacks 'kv_lora_rank'"),
        ({"scoring_func": "softmax"}, "scoring_func 'softmax'"),
        ({"num_nextn_predict_layers": 2}, "num_nextn_predict_layers is 2"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rotary type is 'dynamic'"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale_all_dim": 1.0}}, "mscale_all_dim without mscale"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ],
)
def test_what_the_policy_does_not_compute_is_refused(source, change, named):
    hf = json.loads((source / "config.json").read_text()) | change
    with pytest.raises(ValueError, match=named):
        policy_config(hf, dtype="float32", param_dtype="float32")


def test_both_spellings_of_rotary_settings_mean_the_same():
    old = json.loads((hf_models.FIXTURES / "llama" / "config.json").read_text())
    assert old["rope_scaling"]["type"] == "llama3" and "rope_parameters" not in old
    scaling = dict(old["rope_scaling"])
    scaling["rope_type"] = scaling.pop("type")
    new = {k: v for k, v in old.items() if k not in ("rope_scaling", "rope_theta")}
    new["rope_parameters"] = scaling | {"rope_theta": old["rope_theta"]}
    read = [policy_config(hf, dtype="float32", param_dtype="float32") for hf in (old, new)]
    assert read[0] == read[1] and read[0].rope_scaling == "llama3" and read[0].rope_theta == 500.0


def quantised(matrix):
    """FP8 with a float32 scale a block of 128 x 128, as DeepSeek publishes V3."""
    rows, columns = (-(-size // 128) for size in matrix.shape)
    scale = np.zeros((rows, columns), np.float32)
    out = np.zeros(matrix.shape, ml_dtypes.float8_e4m3fn)
    for i in range(rows):
        for j in range(columns):
            at = (slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128))
            scale[i, j] = np.abs(matrix[at]).max() / 448.0
            out[at] = (matrix[at] / scale[i, j]).astype(out.dtype)
    return out, scale


def test_fp8_blocks_import_to_within_the_formats_rounding(tmp_path):
    """A Llama wide enough for several blocks, ragged ones among them, and for parts of blocks on a sharded mesh."""
    hf = json.loads((hf_models.FIXTURES / "llama" / "config.json").read_text())
    hf |= dict(hidden_size=192, intermediate_size=320, num_hidden_layers=1, head_dim=48)
    policy = policy_config(hf, dtype="float32", param_dtype="float32")
    draw = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: draw.normal(size=leaf.shape).astype(leaf.dtype), tiny_policy.abstract_variables(policy)
    )
    plain = {t.name: t.make() for t in tensors(policy, variables, np.dtype(np.float32))}
    files, scales = dict(plain), {}
    for name, array in plain.items():
        if "proj" in name:
            files[name], scales[name + "_scale_inv"] = quantised(array)
    for folder, some in (("whole", plain), ("fp8", files | scales)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, some)
        shutil.copy(hf_models.FIXTURES / "llama" / FILE, tmp_path / folder)
        shutil.copy(hf_models.FIXTURES / "llama" / SETTINGS, tmp_path / folder)
        quantisation = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
        (tmp_path / folder / "config.json").write_text(json.dumps(hf | (quantisation if folder == "fp8" else {})))
        import_hf(str(tmp_path / folder), str(tmp_path / f"{folder}_in"), **FLOAT)
    whole, fp8 = (r1jax.load(str(tmp_path / f"{folder}_in")).params for folder in ("whole", "fp8"))
    worst = 0.0
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(fp8), strict=True):
        # Four bits of significand round by 1/16 at most; below 2^-6 of a block's 448 the steps are even.
        bound = np.abs(a) / 16 + np.abs(a).max() / 448 * 2.0**-9
        worst = max(worst, float((np.abs(a - b) / bound).max()))
    assert 0.5 < worst <= 1.0
    del files["model.layers.0.mlp.up_proj.weight"]
    scale = "model.layers.0.mlp.down_proj.weight_scale_inv"
    write(
        tmp_path / "fp8", plain | {"model.layers.0.mlp.down_proj.weight": files["model.layers.0.mlp.down_proj.weight"]}
    )
    with pytest.raises(ValueError, match=f"{scale} is missing"):
        import_hf(str(tmp_path / "fp8"), str(tmp_path / "no"), **FLOAT)


def test_the_prediction_module_comes_in_and_goes_out(source, tmp_path):
    """Its copies of embedding and head may be there or not; ones that differ are refused."""
    own = tensors_of(source)
    extra = {name.replace("layers.2.", "layers.3."): x[::-1].copy() for name, x in own.items() if "layers.2." in name}
    at, norm = "model.layers.3.", own["model.norm.weight"]
    extra |= {f"{at}enorm.weight": norm * 2, f"{at}hnorm.weight": norm * 3, f"{at}shared_head.norm.weight": norm * 4}
    extra[f"{at}eh_proj.weight"] = np.random.default_rng(0).normal(size=(24, 48)).astype(norm.dtype)
    copies = {
        f"{at}embed_tokens.weight": own["model.embed_tokens.weight"],
        f"{at}shared_head.head.weight": own["lm_head.weight"],
    }
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    write(source, own | extra)
    import_hf(str(source), str(tmp_path / "in"), **FLOAT)
    params = r1jax.load(str(tmp_path / "in")).params["params"]
    np.testing.assert_array_equal(params["mtp"]["hidden_norm"]["scale_X"], (norm * 3).astype(np.float32))
    np.testing.assert_array_equal(params["mtp"]["join_ID"].T, extra[f"{at}eh_proj.weight"].astype(np.float32))
    export_hf(str(tmp_path / "in"), str(tmp_path / "out"), param_dtype="bfloat16", shard_bytes=1 << 40)
    out = tensors_of(tmp_path / "out")
    assert out.keys() == own.keys() | extra.keys() | copies.keys()
    for name, array in (own | extra | copies).items():
        np.testing.assert_array_equal(out[name].astype(np.float32), array.astype(np.float32), err_msg=name)
    write(source, own | extra | {f"{at}embed_tokens.weight": own["lm_head.weight"]})
    with pytest.raises(ValueError, match=r"model\.layers\.3\.embed_tokens\.weight differs"):
        import_hf(str(source), str(tmp_path / "no"), **FLOAT)


def test_transformers_saves_no_prediction_module_though_its_config_names_one(source, tmp_path):
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    import_hf(str(source), str(tmp_path / "in"), **FLOAT)
    assert json.loads((tmp_path / "in" / "config.json").read_text())["policy"]["mtp_layers"] == 0


def test_a_policy_trained_here_leaves_and_comes_back(tmp_path):
    zero = smoke_run.finished() / "zero"
    export_hf(str(zero), str(tmp_path / "hf"), param_dtype="", shard_bytes=1 << 40)
    import_hf(str(tmp_path / "hf"), str(tmp_path / "again"), **FLOAT)
    before, after = r1jax.load(str(zero)), r1jax.load(str(tmp_path / "again"))
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    same = dataclasses.replace(after.config, dtype=before.config.dtype, init_scale=before.config.init_scale)
    assert dataclasses.replace(same, remat=before.config.remat) == before.config
    assert set(before.tokenizer.stop_ids(["</answer>"])) <= set(after.tokenizer.end_ids)


def test_the_verb_goes_both_ways_and_refuses_clearly(tmp_path):
    common = ("r1jax.convert", f"--from_hf={hf_models.FIXTURES / 'qwen2'}")
    code, out, err = run(*common, f"--to={tmp_path / 'in'}", "--param_dtype=bfloat16")
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["checkpoint"] == str(tmp_path / "in") and result["bytes"] == 2 * result["parameters"]
    commands = [
        ("r1jax.convert", f"--from={tmp_path / 'in'}", f"--to_hf={tmp_path / 'out'}"),
        (*common, f"--to={tmp_path / 'in'}"),
        ("r1jax.convert", f"--from={tmp_path / 'in'}", f"--to={tmp_path / 'x'}"),
        ("r1jax.convert", "--help"),
        ("r1jax.generate", f"--checkpoint={tmp_path / 'in'}", "--prompt=What is 2 + 3?", "--max_tokens=8"),
    ]
    (away, twice, crossed, help_, said) = together(*commands)
    assert away[1] == 0 and json.loads(away[0][0])["model_type"] == "qwen2", away
    assert twice[1] == 2 and "is there already" in twice[0][1] and "Traceback" not in twice[0][1]
    assert crossed[1] == 2 and "--from_hf with --to" in crossed[0][1]
    assert help_[1] == 0 and "--to_hf" in help_[0][0]
    assert said[1] == 0 and json.loads(said[0][0])["completions"][0]["tokens"] > 0, said
    for name, array in tensors_of(hf_models.FIXTURES / "qwen2").items():
        np.testing.assert_array_equal(array, tensors_of(tmp_path / "out")[name])


def long_run(*args):
    """As `run`, for what takes minutes."""
    process = start(*args)
    out, err = process.communicate(timeout=1200)
    return process.returncode, out, err


@pytest.mark.slow
def test_rl_and_sft_start_from_an_imported_checkpoint(imported, tmp_path, source_dir):
    """As a user would: the configs that name it, a few steps on GSM8K, then evaluation."""
    lines = [json.loads(line) for line in (source_dir / "gsm8k" / "train.jsonl").read_text("utf-8").splitlines()[:200]]
    rows = [
        {"question": r["question"], "completion": r["answer"], "answer": r["answer"].split("#### ")[1]}
        for r in lines
        if len(r["question"]) + len(r["answer"]) < 400
    ]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    small = [
        "--config.steps=3", "--config.policy.context=1280", "--config.batch.row_length=1280", "--config.batch.rows=2",
        "--config.batch.micro_rows=2", "--config.evaluation.limit=2", "--config.evaluation.max_tokens=8",
        "--config.evaluation.batch=2", f"--config.data.source_dir={source_dir}",
        f"--config.data.data_dir={tmp_path / 'data'}", "--config.optimizer.warmup_steps=1",
    ]  # fmt: skip
    sft = ("r1jax.main", f"--config=configs/sft_imported.py:{imported}", f"--workdir={tmp_path / 'sft'}", *small,
           f"--config.data.sources.lines.name=jsonl:{tmp_path / 'lines.jsonl'}")  # fmt: skip
    code, out, err = long_run(*sft)
    assert code == 0, err
    code, out, err = long_run(
        "r1jax.main", f"--config=configs/gsm8k_imported.py:{tmp_path / 'sft'}", f"--workdir={tmp_path / 'rl'}", *small,
        "--config.rollout.prompts=2", "--config.rollout.samples=2", "--config.rollout.max_tokens=16",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["stages"]["rl"]["gsm8k:test"]["n"] == 2
    metrics = [json.loads(line) for line in (tmp_path / "rl" / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 3 and max(m["policy/sampler_mismatch"] for m in metrics) < 1e-4
    assert (tmp_path / "rl" / FILE).read_bytes() == (hf_models.FIXTURES / "deepseek_v3" / FILE).read_bytes()
    code, out, err = run(
        "r1jax.evaluate", f"--checkpoint={tmp_path / 'rl'}", "--tasks=gsm8k:test", "--samples=1", "--limit=2",
        "--max_tokens=8",
    )  # fmt: skip
    assert code == 0 and json.loads(out)["n"] == 2, err


@pytest.mark.slow
def test_importing_two_gigabytes_keeps_the_host_small(tmp_path, capsys):
    """A random checkpoint of 2 GB peaks under 1 GB above its parameters' size."""
    subprocess.run(
        [sys.executable, ROOT / "tests" / "large_checkpoint.py", tmp_path / "hf", "2.0"], check=True, cwd=ROOT
    )
    code, out, err = run(
        "r1jax.convert", f"--from_hf={tmp_path / 'hf'}", f"--to={tmp_path / 'in'}", "--param_dtype=bfloat16"
    )
    assert code == 0, err
    result = json.loads(out)
    above = result["peak_host_bytes"] - result["bytes"]
    with capsys.disabled():
        print(f"\nparameters {result['bytes'] / 1e9:.2f} GB, peak {above / 1e9:.2f} GB above", end="")
    assert result["bytes"] > 1.9e9 and above < 1e9
