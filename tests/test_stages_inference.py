"""An opened checkpoint: logits, completions, and checkpoints that do not fit."""

import dataclasses
import math
import shutil

import jax
import numpy as np
import pytest
import smoke_run

import r1jax
from r1jax.mesh import make_mesh
from r1jax.stages.inference import (
    ONE_DEVICE,
    check_architecture,
    check_prompts,
    check_start,
    completion_text,
    encode_prompt,
    load_params,
    seeds,
)

PROMPTS = ["What is 2 + 3 * 4?", "x"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """Opened from a copy: nothing beside the folder is needed."""
    folder = tmp_path_factory.mktemp("copy") / "elsewhere"
    shutil.copytree(smoke_run.finished() / "zero", folder)
    return r1jax.load(str(folder))


@pytest.fixture(scope="module")
def completions(policy):
    return policy.generate(PROMPTS, samples=3, max_tokens=16, seed=5)


def test_logits_are_float32_and_causal(policy):
    tokens_BL = np.array([[5, 300, 7, 8], [5, 300, 9, 9]])
    logits_BLV = policy.logits(tokens_BL)
    assert logits_BLV.shape == (2, 4, 768) and logits_BLV.dtype == np.float32
    np.testing.assert_allclose(logits_BLV[0, :2], logits_BLV[1, :2], atol=1e-6)
    assert np.abs(logits_BLV[0, 2:] - logits_BLV[1, 2:]).max() > 1e-3


@pytest.mark.parametrize("tokens", [np.zeros((2, 0), int), np.zeros(3, int), np.zeros((1, 321), int)])
def test_logits_of_bad_shapes_are_refused(policy, tokens):
    with pytest.raises(ValueError, match="tokens_BL has"):
        policy.logits(tokens)


def test_completions_say_what_was_sampled(policy, completions):
    assert [len(group) for group in completions] == [3, 3]
    for group in completions:
        for done in group:
            assert 1 <= len(done.tokens) == len(done.logprobs) <= 16
            assert done.finish_reason in ("stop", "length") and (done.finish_reason == "stop" or len(done.tokens) == 16)
            assert done.text == completion_text(policy.tokenizer, done.tokens)
    assert len({done.text for group in completions for done in group}) == 6


def test_logprobs_are_those_of_the_logits(policy, completions):
    for prompt, group in zip(PROMPTS, completions, strict=True):
        ids = encode_prompt(policy.tokenizer, prompt)
        for done in group[:2]:
            row = ids + done.tokens
            padded = np.array([row + [0] * (64 - len(row))])  # one shape: causal, so what follows is not seen
            logits_LV = policy.logits(padded)[0].astype(np.float64)
            for i, (token, logprob) in enumerate(zip(done.tokens, done.logprobs, strict=True)):
                at = logits_LV[len(ids) + i - 1]
                expected = at[token] - at.max() - math.log(np.exp(at - at.max()).sum())
                assert logprob == pytest.approx(expected, abs=1e-4)


def test_same_seed_same_completions(policy, completions):
    assert policy.generate(PROMPTS, samples=3, max_tokens=16, seed=5) == completions
    assert policy.generate(PROMPTS, samples=3, max_tokens=16, seed=6) != completions
    greedy = policy.generate(PROMPTS, samples=3, max_tokens=16, temperature=0, seed=5)
    assert all(done.tokens == group[0].tokens for group in greedy for done in group)


def test_stream_gives_the_tokens_of_generate(policy, completions):
    ids = encode_prompt(policy.tokenizer, PROMPTS[0])
    options = dict(temperature=1.0, top_k=0, top_p=1.0, max_tokens=16)
    streamed = list(policy.engine.stream(policy.params, ids, seeds(5, 6)[0], **options))
    assert streamed == completions[0][0].tokens


def test_bad_requests_are_refused(policy):
    with pytest.raises(ValueError, match=r"samples is 0"):
        policy.generate(PROMPTS, samples=0)
    with pytest.raises(ValueError, match=r"exceed policy\.context \(320\)"):
        policy.generate(["why? " * 300], max_tokens=16)
    with pytest.raises(ValueError, match=r"0 prompts"):
        policy.generate([])
    with pytest.raises(ValueError, match=r"top_p 0"):
        policy.generate(PROMPTS, top_p=0.0)


def test_unknown_tokens_read_as_replacement(policy):
    tokenizer = policy.tokenizer
    known = tokenizer.encode("ab")
    beyond = tokenizer.vocab_size
    assert completion_text(tokenizer, [*known, beyond, beyond + 1, *known, tokenizer.eos_id]) == "ab\ufffd\ufffdab"


def test_seeds_depend_on_run_and_purpose():
    assert seeds(0, 4).dtype == np.uint32 and len(set(seeds(0, 4))) == 4
    assert seeds(0, 4, 1, 7).tolist() == seeds(0, 4, 1, 7).tolist()
    assert not set(seeds(0, 4, 1, 7)) & (set(seeds(0, 4, 1, 8)) | set(seeds(1, 4, 1, 7)) | set(seeds(0, 4)))


def test_prompts_are_checked_by_their_tokens(policy):
    question = "What is 2 + 3 * 4?"
    length = len(encode_prompt(policy.tokenizer, question))
    check_prompts([question], policy.tokenizer, "plain", length, "room", "here")
    with pytest.raises(
        ValueError, match=rf"here: the prompt of record 1 has {length} tokens; room leaves {length - 1}"
    ):
        check_prompts(["x", question], policy.tokenizer, "plain", length - 1, "room", "here")


def test_context_may_differ_and_nothing_else_that_weights_depend_on(policy):
    longer = dataclasses.replace(policy.config, context=4096, remat="full", dtype="bfloat16")
    check_architecture("here", policy.config, longer)
    for change in ({"width": 64}, {"rope_theta": 1.0}, {"active_experts": 1}, {"param_dtype": "bfloat16"}):
        with pytest.raises(ValueError, match=rf"here is of another architecture: policy\.{next(iter(change))}"):
            check_architecture("here", policy.config, dataclasses.replace(policy.config, **change))
    mesh = make_mesh(ONE_DEVICE, jax.devices()[:1])
    loaded = load_params(str(smoke_run.finished() / "zero"), dataclasses.replace(policy.config, context=4096), mesh)
    jax.tree.map(np.testing.assert_array_equal, loaded, policy.params)


def test_checkpoints_that_cannot_be_used_are_named(tmp_path, policy):
    mesh = make_mesh(ONE_DEVICE, jax.devices()[:1])
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        r1jax.load(str(tmp_path))
    with pytest.raises(ValueError, match=r"init_from is empty"):
        check_start("", policy.config)
    folder = tmp_path / "copy"
    shutil.copytree(smoke_run.finished() / "base", folder)
    check_start(str(folder), policy.config)
    (biggest,) = sorted((folder / "checkpoints/4/params").rglob("d/*"), key=lambda path: path.stat().st_size)[-1:]
    biggest.write_bytes(biggest.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"checkpoints/4 cannot be read.*damaged"):
        load_params(str(folder), policy.config, mesh)
    shutil.rmtree(folder / "checkpoints/4")
    with pytest.raises(ValueError, match=r"holds no saved step"):
        check_start(str(folder), policy.config)
