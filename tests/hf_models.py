"""Tiny Hugging Face models of every family, and the committed fixtures made of them.

python tests/hf_models.py    (needs the `dev` extra) writes tests/fixtures/hf/FAMILY/: a checkpoint in bfloat16 that
transformers saved, and `expected.npz` with its float32 logits, gradient norms and greedy tokens.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "hf"
LENGTH = 96  # tokens of the input whose logits are compared
STRIDE = 5  # of the positions whose logits a fixture holds
NEW = 64  # tokens of a greedy completion
PROMPTS = (17, 5, 11)  # lengths of a ragged batch

_SIZES = dict(
    vocab_size=160, hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=256, rms_norm_eps=1e-6, initializer_range=0.02,
)  # fmt: skip
_LATENT = _SIZES | dict(
    kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12, q_lora_rank=None, first_k_dense_replace=1,
    num_key_value_heads=4, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1,
    moe_intermediate_size=8, n_group=1, topk_group=1,
    routed_scaling_factor=1.0, norm_topk_prob=True,
)  # fmt: skip
_YARN = dict(
    rope_type="yarn", factor=8.0, original_max_position_embeddings=32, beta_fast=32, beta_slow=1, mscale=0.8,
    mscale_all_dim=1.2, rope_theta=1000.0,
)  # fmt: skip
_LLAMA3 = dict(
    rope_type="llama3", factor=8.0, original_max_position_embeddings=64, low_freq_factor=1.0, high_freq_factor=4.0,
    rope_theta=500.0,
)  # fmt: skip
# Family -> (transformers' model, its config, how the rotary settings are spelt in the fixture).
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek_v3": ("deepseek_v3", _LATENT),
    "deepseek_v3_grouped": (
        "deepseek_v3",
        _LATENT
        | dict(q_lora_rank=24, n_group=4, topk_group=2, routed_scaling_factor=2.5, n_shared_experts=2, v_head_dim=8),
    ),
    "deepseek_v3_yarn": (
        "deepseek_v3",
        _LATENT | dict(rope_parameters=_YARN, rope_interleave=False, norm_topk_prob=False),
    ),
    "deepseek_v2": (
        "deepseek_v2",
        _LATENT
        | dict(
            n_group=4, topk_group=2, topk_method="group_limited_greedy", norm_topk_prob=False, n_shared_experts=2,
            routed_scaling_factor=4.0, rope_parameters=_YARN | dict(mscale=0.707, mscale_all_dim=0.707),
        ),
    ),
    "qwen2": ("qwen2", _SIZES | dict(num_key_value_heads=2, tie_word_embeddings=True)),
    "qwen3": ("qwen3", _SIZES | dict(num_key_value_heads=2, head_dim=12)),
    "llama": ("llama", _SIZES | dict(num_key_value_heads=2, rope_parameters=_LLAMA3)),
}  # fmt: skip
OLD_SPELLING = ("deepseek_v3_grouped", "llama", "deepseek_v2")  # rope_theta and rope_scaling; the others, the new one


def make(family: str, seed: int = 0):
    """A transformers model in float32 whose weights, norms, biases and load bias are all random."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, sizes = FAMILIES[family]
    config = AutoConfig.for_model(kind, **sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    if kind == "deepseek_v3":
        config.num_mtp_layers = 0
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "inv_freq" in name:
                continue
            spread = 0.15 if name.endswith(("bias", "correction_bias")) or "norm" in name else 1 / 5
            tensor.copy_((1.0 if "norm" in name else 0.0) + spread * torch.randn(tensor.shape))
            tensor.copy_(tensor.to(torch.bfloat16).to(torch.float32))
    return model


def inputs(vocab: int = 160) -> np.ndarray:
    """tokens_BL of the comparison."""
    return np.random.default_rng(1).integers(3, vocab, size=(2, LENGTH))


def prompts(vocab: int = 160) -> list[list[int]]:
    draw = np.random.default_rng(2)
    return [draw.integers(3, vocab, size=length).tolist() for length in PROMPTS]


def answers(model) -> dict[str, np.ndarray]:
    """What the model says: logits, the gradient of the mean log-probability by parameter, greedy tokens."""
    import torch

    tokens = torch.tensor(inputs())
    logits = model(tokens).logits
    logp = torch.log_softmax(logits[:, :-1].double(), -1).gather(-1, tokens[:, 1:, None]).mean()
    model.zero_grad()
    logp.backward()
    gradients = {
        f"gradient/{name}": tensor.grad.numpy() for name, tensor in model.named_parameters() if tensor.grad is not None
    }
    longest = max(PROMPTS)
    rows = [[0] * (longest - len(row)) + row for row in prompts()]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in prompts()]
    greedy = model.generate(
        torch.tensor(rows), attention_mask=torch.tensor(mask), max_new_tokens=NEW, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )[:, longest:]  # fmt: skip
    return {"logits": logits.detach().numpy(), "greedy": greedy.numpy(), **gradients}


def save(model, folder: Path, family: str) -> None:
    """The checkpoint with a tokenizer, in bfloat16 as models are published."""
    import copy

    import torch

    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.get("rope_parameters")
    if family in OLD_SPELLING and rope:
        del config["rope_parameters"]
        config["rope_theta"] = rope.pop("rope_theta")
        kind = rope.pop("rope_type")
        config["rope_scaling"] = None if kind == "default" else rope | {"type": kind}
    path.write_text(json.dumps(config, indent=1))
    byte_tokenizer(folder)


def byte_tokenizer(folder: Path) -> None:
    """A byte-level BPE of 160 ids with a chat template: a model of the field's own tokenizers, and a small one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    keep = [c for c in alphabet if ord(c) < 127 or c in "ĠĊ"] + [c for c in "ÃâĢðŁĺĢ©Ⱥģį¿¡" if c in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=158,
        special_tokens=["<pad>", "<bos>", "<eos>", "<user>", "<bot>"],
        initial_alphabet=sorted(set(keep)),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["What is 2 + 3? The answer is 5. é 😀 "] * 4, trainer)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    template = (
        "{{ bos_token }}{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<bot>' }}"
        "{{ m['content'] | trim }}{% endfor %}{% if add_generation_prompt %}<bot><think>\n{% endif %}"
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>",
        "pad_token": {"__type": "AddedToken", "content": "<pad>", "special": True}, "add_bos_token": True,
        "chat_template": template,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": [2, 3]}))


def main() -> None:
    shutil.rmtree(FIXTURES, ignore_errors=True)
    for family in FAMILIES:
        folder = FIXTURES / family
        model = make(family)
        save(model, folder, family)
        said = answers(model)
        norms = {k: np.linalg.norm(x.astype(np.float64)) for k, x in said.items() if k.startswith("gradient/")}
        np.savez_compressed(folder / "expected.npz", logits=said["logits"][0, ::STRIDE], greedy=said["greedy"], **norms)


if __name__ == "__main__":
    main()
