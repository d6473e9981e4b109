"""The benchmark's workloads are the peers' own, and its page says what was measured."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import measuring, page, setting
from bench import workloads as w
from r1jax.data.tokenizer import Tokenizer
from r1jax.models.policy import parameter_count

ROOT = Path(__file__).resolve().parent.parent
# By hand: embedding and head, final norm, then each layer's attention, feed-forward, norms and router.
PARAMETERS = {
    "dense-S": 2 * 4096 * 256 + 256 + 6 * (2 * 256 * 256 + 256 + 2 * (256 * 128 + 128) + 3 * 256 * 1024 + 512),
    "moe-S": 2 * 4096 * 256
    + 256
    + 4 * (256 * 96 + 96 + 96 * 4 * 48 + 256 * 80 + 64 + 64 * 4 * 64 + 4 * 32 * 256 + 512)
    + 3 * 256 * 1024
    + 3 * (17 * 3 * 256 * 128 + 256 * 16),
    "dense-M": 2 * 16384 * 768 + 768 + 12 * (2 * 768 * 768 + 768 + 2 * (768 * 128 + 128) + 3 * 768 * 2048 + 1536),
}


@pytest.fixture(scope="module")
def peers():
    """The module that the peers take their work from, where there is one beside the repository."""
    path = ROOT.parent / "shared" / "bench" / "workloads.py"
    if not path.exists():
        pytest.skip(f"no peers' workloads at {path}")
    spec = importlib.util.spec_from_file_location("peers_workloads", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_workloads_are_the_peers(peers):
    names = [name for name in vars(w) if name.isupper()]
    assert "MODELS" in names and "KL_BETA" in names, "the case should hold shapes and hyperparameters"
    assert {name: getattr(w, name) for name in names} == {name: getattr(peers, name) for name in names}
    for model in w.MODELS:
        for batch in (0, 3):
            np.testing.assert_array_equal(w.prompt_ids(model, batch), peers.prompt_ids(model, batch))
            np.testing.assert_array_equal(w.sft_ids(model, batch), peers.sft_ids(model, batch))
            assert w.prompt_texts(model, batch) == peers.prompt_texts(model, batch)
    text = "t7 t10 t17 t70"
    assert w.reward(text) == peers.reward(text) == 0.5


@pytest.mark.parametrize("model", w.MODELS)
def test_policies_have_the_workloads_size(model):
    assert parameter_count(setting.policy(model, "float32"))[0] == PARAMETERS[model]


@pytest.mark.parametrize("model", w.MODELS)
def test_a_prompt_is_64_tokens_and_reads_back(model, tmp_path):
    Tokenizer(setting.WordVocabulary(model)).save(tmp_path)
    tokenizer = Tokenizer(setting.WordVocabulary.load(tmp_path))
    assert tokenizer.vocab_size == w.MODELS[model]["vocab"] < tokenizer.eos_id
    for ids, text in zip(w.prompt_ids(model), w.prompt_texts(model), strict=True):
        assert tokenizer.encode_prompt(text) == ids.tolist()
        assert tokenizer.decode(ids.tolist()).split() == text.split()


def test_a_stage_leaves_no_padding_and_has_the_peers_hyperparameters():
    config = setting.rl_stage("moe-S", "bfloat16")
    assert (config.rollout.prompts, config.rollout.samples, config.rollout.max_tokens) == (8, 8, 128)
    assert (config.grpo.kl_coef, config.grpo.clip_low, config.grpo.clip_high) == (0.04, 0.2, 0.2)
    assert (config.optimizer.lr, config.optimizer.weight_decay, config.policy.dtype) == (1e-5, 0.0, "bfloat16")
    for row_length, micro_rows, _ in setting.ROWS.values():
        completions, rest = divmod(row_length - (w.PROMPT_LEN - 1), w.NEW_TOKENS)
        assert rest == 0 and w.GROUP % completions == 0, "a row holds its prompt, and whole completions"
        assert w.SEQS // completions % micro_rows == 0, "and the rows make whole micro-batches"


def test_lines_are_medians_with_their_span():
    line = measuring.timed("dense-S", "rollout", [2.0, 1.0, 4.0], 100, setting="dtype=float32")
    assert line == {
        "peer": "r1jax", "model": "dense-S", "measure": "rollout", "value": 50.0, "unit": "tokens/s", "n": 3,
        "median_s": 2.0, "span": [25.0, 100.0], "setting": "dtype=float32",
    }  # fmt: skip
    assert measuring.timed("dense-S", "grpo_step", [3.0, 1.0, 2.0], None)["value"] == 2.0


LINES = [
    {"measure": "machine", "date": "2026-01-02", "processor": "P", "architecture": "a", "cores": 2, "memory_gib": 8.0},
    {"peer": "trl", "measure": "versions", "model": "-", "value": "torch=1", "unit": ""},
    {"peer": "jax", "measure": "ceiling", "dtype": "float32", "value": 100.0, "unit": "GFLOP/s", "round": 0},
    {"peer": "jax", "measure": "ceiling", "dtype": "float32", "value": 200.0, "unit": "GFLOP/s", "round": 1},
    *[
        {"peer": peer, "model": "dense-S", "measure": measure, "value": value, "round": number, "other_cores": 0.0}
        | {"setting": "dtype=float32,attn=sdpa", "unit": "", "median_s": 2.0}
        | ({"flops": 60e9, "padding": 0.031} if (peer, measure) == ("r1jax", "update") else {})
        for peer, measure, values in (
            ("r1jax", "update", (300.0, 500.0)),
            ("r1jax", "grpo_step", (2.0, 2.0)),
            ("trl", "update", (100.0, 200.0)),
            ("trl", "grpo_step", (3.0, 3.0)),
            ("tunix", "grpo_step", (5.0, 5.0)),
        )
        for number, value in enumerate(values)
    ],
]


def test_page_compares_with_the_better_peer():
    text = page.page(LINES, "growth.svg")
    assert "| update, tokens/s | 400 (300–500) | 150 (100–200) | not supported | 2.67× |" in text
    assert "| GRPO step, s | 2 (2–2) | 3 (3–3) | 5 (5–5) | 1.50× |" in text
    assert "| jax | float32 | 150 (100–200) |" in text
    # 60 GFLOP in 2 s are 30 GFLOP/s: 30% of the first round's ceiling, 15% of the second's.
    assert "update 22%" in text or "update 23%" in text
    assert "Padding in the update: 3.1%." in text
    assert "not quiet" not in text and "2026-01-02, 2 cores of P" in text


def test_a_single_round_is_its_repeats():
    assert page.spread([{"value": 2.0, "span": [1.0, 5.0]}]) == (2.0, 1.0, 5.0)
    assert page.spread([{"value": 2.0, "span": [1.0, 5.0]}, {"value": 4.0, "span": [3.0, 9.0]}]) == (3.0, 2.0, 4.0)


def test_page_tells_what_ragged_lengths_gain():
    gained = {"model": "moe-S", "measure": "refill_gain", "value": 3.0, "span": {"static": [2.0, 4.0]}, "n": 5}
    assert "| moe-S | refill | 3.00× (2.00–4.00) | 5 |" in page.page([*LINES, gained], "growth.svg")
    assert "refill" not in page.page(LINES, "growth.svg")


def test_page_warns_of_a_busy_machine_and_names_failures():
    busy = [line | {"other_cores": 1.5} if line.get("peer") == "tunix" else line for line in LINES]
    text = page.page([*busy, {"measure": "failed", "command": "peer_x.py", "why": "exit 1"}], "growth.svg")
    assert "In 2 of 10 measurements other work took more than 0.12 cores" in text
    assert "- `peer_x.py`: exit 1" in text


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["rollout", "grpo", "sft"])
def test_run_prints_its_lines(measure):
    """The smallest of the policies, one repeat; on stdout there are lines and nothing else."""
    words = [sys.executable, "bench/run.py", "--model=moe-S", f"--measure={measure}", "--warmup=1", "--repeats=1"]
    env = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=True)
    lines = {line["measure"]: line for line in map(json.loads, done.stdout.splitlines())}
    expected = {
        "rollout": {"rollout", "rollout_compile"},
        "grpo": {"grpo_rollout", "update", "grpo_step", "grpo_peak_rss", "grpo_compile"},
        "sft": {"sft", "sft_compile"},
    }
    assert set(lines) == expected[measure]
    assert all(line["peer"] == "r1jax" and line["model"] == "moe-S" and line["value"] > 0 for line in lines.values())
    if measure == "grpo":
        assert lines["update"]["padding"] == 0.0, "rows are cut to measure"
        assert lines["grpo_rollout"]["mismatch"] < 1e-4, "sampler and trainer agree"


def test_every_model_is_a_policy_in_both_dtypes():
    for model in w.MODELS:
        wide, narrow = (setting.policy(model, dtype) for dtype in ("float32", "bfloat16"))
        assert dataclasses.replace(narrow, dtype="float32") == wide
