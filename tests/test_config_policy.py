"""A policy that cannot be is refused at start, with the field's name and the remedy."""

import dataclasses

import pytest

from tests import tiny_policy as tiny

WRONG = {
    "attention": (tiny.CONFIG, dict(attention="gqaa"), r"policy.attention is 'gqaa'.*did you mean 'gqa'"),
    "sizes of the other kind": (tiny.CONFIG, dict(kv_heads=2), r"policy.kv_heads is 2.*has no use for; set it to 0"),
    "switches of the other kind": (tiny.CONFIG, dict(qk_norm=True), r"policy.qk_norm is True.*set it to False"),
    "latents under gqa": (tiny.DENSE, dict(kv_lora_rank=8), r"policy.kv_lora_rank is 8.*set it to 0"),
    "no latents under mla": (tiny.CONFIG, dict(kv_lora_rank=0), r"policy.kv_lora_rank is 0; expected at least 1"),
    "heads that do not share": (tiny.DENSE, dict(kv_heads=3), r"policy.kv_heads is 3; expected a divisor"),
    "odd rotary pairs": (tiny.DENSE, dict(head_dim=5), r"policy.head_dim is 5; it must be even"),
    "rope scaling": (tiny.CONFIG, dict(rope_scaling="ntk"), r"policy.rope_scaling is 'ntk'; expected one of"),
    "yarn without its keys": (tiny.CONFIG, dict(rope_scaling="yarn"), r"policy.rope_original is 0; expected at least"),
    "yarn the wrong way": (
        tiny.CONFIG, tiny.YARN | dict(rope_beta_slow=9.0), r"expected 0 < rope_beta_slow < rope_beta_fast",
    ),
    "llama3 the wrong way": (
        tiny.FAMILIES["llama3: scaled positions"], dict(rope_low=9.0), r"expected 0 < rope_low < rope_high",
    ),
    "score": (tiny.CONFIG, dict(score="relu"), r"policy.score is 'relu'"),
    "too many experts": (tiny.CONFIG, dict(active_experts=5), r"policy.active_experts is 5; expected 1..4"),
    "two tokens more": (tiny.CONFIG, dict(mtp_layers=2), r"policy.mtp_layers is 2; expected one of 0, 1"),
    "multi-token prediction without experts": (tiny.DENSE, dict(mtp_layers=1), r"mtp_layers is 1 in a dense policy"),
    "blocks": (tiny.CONFIG, dict(attention_block=-1), r"policy.attention_block is -1; expected at least 0"),
}  # fmt: skip


@pytest.mark.parametrize("config, changes, message", WRONG.values(), ids=WRONG)
def test_a_policy_that_cannot_be_is_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **changes)


def test_what_describes_experts_is_not_asked_of_a_dense_policy():
    changed = dataclasses.replace(tiny.DENSE, score="", group_score="", expert_groups=7, active_experts=99)
    assert (changed.score, changed.active_experts) == ("", 99)
