"""Arrays in, `(scalar, metrics)` out: log-probabilities, advantages and the objectives. float32, nats."""

from r1jax.losses.advantages import decoupled_advantages, group_advantages
from r1jax.losses.logprobs import token_logprobs
from r1jax.losses.policy_gradient import Normalizer, grpo_loss, normalizer, sampler_weights
from r1jax.losses.supervised import cross_entropy

__all__ = [
    "Normalizer",
    "cross_entropy",
    "decoupled_advantages",
    "group_advantages",
    "grpo_loss",
    "normalizer",
    "sampler_weights",
    "token_logprobs",
]
