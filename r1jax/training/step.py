"""The update, unjitted and pure: gradients summed over micro-batches, one optimizer step, one router-bias step.

Everything that a loss is divided by is counted over the whole batch before the first micro-batch, so that the result
does not depend on how rows are packed or how many rows a pass takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from r1jax.config import BatchConfig, GrpoConfig, PolicyConfig, RouterConfig
from r1jax.losses.logprobs import token_logprobs
from r1jax.losses.policy_gradient import Normalizer, grpo_loss, normalizer, sampler_weights
from r1jax.losses.supervised import cross_entropy
from r1jax.models.policy import Aux, follows, forward, forward_multi_token, head
from r1jax.training.optimizer import apply_updates
from r1jax.training.state import TrainState
from r1jax.types import Array, Packed, PyTree


class RlBatch(NamedTuple):
    """One mini-batch. Sequences are scored in packed rows and looked up by `index_BL`."""

    packed: Packed
    index_BL: Array  # flat place in [R, T] that predicts each token; -1 where there is none
    advantages_B: Array
    logp_sampler_BL: Array
    logp_old_BL: Array | None  # None: on-policy, one update a rollout
    logp_ref_BL: Array | None  # None: no KL


class PolicyBatch(NamedTuple):
    """Of an `RlBatch`, what is read whatever the objective."""

    packed: Packed
    index_BL: Array
    logp_sampler_BL: Array
    logp_old_BL: Array | None


Objective = Callable[[jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]  # of logp_BL and a mask_BL


def score_rows(
    config: PolicyConfig, batch: BatchConfig, params: PyTree, packed: Packed, temperature: float
) -> tuple[jax.Array, jax.Array, Aux]:
    """(logp_RT, entropy_RT, Aux) of the targets of some rows, at the sampling temperature."""
    hidden_RTD, aux = forward(config, params, packed)
    return *_score_hidden(config, batch, params, hidden_RTD, packed.target_RT, temperature), aux


def _score_hidden(
    config: PolicyConfig,
    batch: BatchConfig,
    params: PyTree,
    hidden_RTD: jax.Array,
    target_RT: Array,
    temperature: float,
) -> tuple[jax.Array, jax.Array]:
    """(logp_RT, entropy_RT) of targets, given the hidden states that predict them."""
    logp_RT, entropy_RT = token_logprobs(
        hidden_RTD, head(config, params), target_RT, temperature=temperature, chunk=batch.logit_chunk
    )
    assert entropy_RT is not None, "token_logprobs gives the entropy unless told not to"
    return logp_RT, entropy_RT


def score(
    config: PolicyConfig, batch: BatchConfig, temperature: float, params: PyTree, packed: Packed, index_BL: Array
) -> jax.Array:
    """logp_BL of the sampled tokens under `params`, no gradient; 0 where there is no token."""

    def of_rows(rows: Packed) -> jax.Array:
        hidden_RTD, _ = forward(config, params, rows)
        return token_logprobs(
            hidden_RTD, head(config, params), rows.target_RT,
            temperature=temperature, chunk=batch.logit_chunk, with_entropy=False,
        )[0]  # fmt: skip

    logp_MrT = jax.lax.map(skipping(of_rows), micro_batches(packed, batch.micro_rows))
    return look_up(logp_MrT.reshape(-1), index_BL)


def look_up(flat: jax.Array, index_BL: Array) -> jax.Array:
    """flat[index], and 0 where the index points outside."""
    inside = (index_BL >= 0) & (index_BL < flat.shape[0])
    return jnp.take(flat, jnp.where(inside, index_BL, flat.shape[0]), mode="fill", fill_value=0.0)


def sft_step(
    config: PolicyConfig,
    batch_config: BatchConfig,
    router: RouterConfig,
    mtp_coef: float,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    packed: Packed,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One supervised update over packed rows.

    With `mtp_coef` above 0 the loss has a second term, so many times the cross-entropy of the token after next, which
    trains the policy's layer of multi-token prediction (arXiv 2412.19437, eqs. 24-25, one depth).
    """
    weight = jnp.sum(packed.weight_RT)
    weight_after = jnp.sum(after_next(packed)[1])
    segments = segment_count(packed.segment_RT)

    def loss(params, rows: Packed, _):
        if mtp_coef:
            hidden_RTD, after_next_RTD, aux = forward_multi_token(config, params, rows)
        else:
            hidden_RTD, aux = forward(config, params, rows)
        logp_RT, entropy_RT = _score_hidden(config, batch_config, params, hidden_RTD, rows.target_RT, 1.0)
        loss, metrics = cross_entropy(logp_RT, rows.weight_RT, normalizer=weight)
        if mtp_coef:
            target_RT, weight_RT = after_next(rows)
            logp_RT, _ = _score_hidden(config, batch_config, params, after_next_RTD, target_RT, 1.0)
            loss_after, _ = cross_entropy(logp_RT, weight_RT, normalizer=weight_after)
            loss += mtp_coef * loss_after
            metrics["mtp/loss"] = jax.lax.stop_gradient(loss_after)
        balance = aux.balance / jnp.maximum(segments, 1)
        metrics |= {
            "policy/entropy": jnp.sum(jax.lax.stop_gradient(entropy_RT) * rows.weight_RT) / jnp.maximum(weight, 1.0),
            "moe/balance": balance,
        }
        return loss + router.balance_coef * balance, (metrics, aux)

    grads, metrics, aux = accumulate(loss, state.params, micro_batches(packed, batch_config.micro_rows))
    state, metrics = apply_gradients(state, grads, metrics, aux, router, optimizer)
    metrics["update/padding"] = padding(packed, batch_config.micro_rows)
    return state._replace(step=state.step + 1), metrics


def after_next(packed: Packed) -> tuple[jax.Array, jax.Array]:
    """(target_RT, weight_RT) of multi-token prediction: what the next token is to predict, where it is of one's own.

    A position counts if both its next token and the one after belong to its segment and branch, and the latter is to
    be learnt.
    """
    target_RT, weight_RT = (jnp.pad(x[:, 1:], ((0, 0), (0, 1))) for x in (packed.target_RT, packed.weight_RT))
    return target_RT, jnp.where(follows(packed), weight_RT, 0.0)


def rl_step(
    config: PolicyConfig,
    batch_config: BatchConfig,
    router: RouterConfig,
    grpo: GrpoConfig,
    temperature: float,
    max_length: int,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: RlBatch,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One GRPO update over one mini-batch. The stage counts its own steps; this leaves `state.step` alone."""
    whole = normalizer(batch.index_BL >= 0)
    given = PolicyBatch(batch.packed, batch.index_BL, batch.logp_sampler_BL, batch.logp_old_BL)

    def objective(logp_BL: jax.Array, here_BL: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        weights_BL, figures = corrections(grpo, given, logp_BL, here_BL, whole)
        loss, metrics = grpo_loss(
            logp_BL,
            batch.logp_old_BL,
            batch.logp_ref_BL,
            batch.advantages_B,
            here_BL,
            clip_low=grpo.clip_low,
            clip_high=grpo.clip_high,
            kl_coef=grpo.kl_coef,
            kl_estimator=grpo.kl_estimator,
            reduction=grpo.reduction,
            importance=grpo.importance,
            max_length=max_length,
            normalizer=whole,
            weights_BL=weights_BL,
        )
        return loss, metrics | figures

    return update_policy(config, batch_config, router, temperature, optimizer, objective, state, given)


def corrections(
    grpo: GrpoConfig, batch: PolicyBatch, logp_BL: jax.Array, here_BL: jax.Array, whole: Normalizer
) -> tuple[jax.Array | None, dict[str, jax.Array]]:
    """(weights_BL of the policy term, their figures), where `grpo.sampler_cap` asks for them."""
    if not grpo.sampler_cap:
        return None, {}
    old_BL = logp_BL if batch.logp_old_BL is None else batch.logp_old_BL
    return sampler_weights(old_BL, batch.logp_sampler_BL, here_BL, cap=grpo.sampler_cap, normalizer=whole)


def update_policy(
    config: PolicyConfig,
    batch_config: BatchConfig,
    router: RouterConfig,
    temperature: float,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    state: TrainState,
    batch: PolicyBatch,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update of the policy on its own samples, whatever the objective."""
    mask_BL = batch.index_BL >= 0
    segments = segment_count(batch.packed.segment_RT)

    def loss(params, rows: Packed, micro):
        logp_RT, entropy_RT, aux = score_rows(config, batch_config, params, rows, temperature)
        index_BL, here_BL = of_micro_batch(batch.index_BL, micro, batch_config)
        logp_BL = look_up(logp_RT.reshape(-1), index_BL)
        loss, metrics = objective(logp_BL, here_BL)
        tokens = jnp.maximum(jnp.sum(mask_BL, dtype=jnp.float32), 1.0)
        old_BL = jax.lax.stop_gradient(logp_BL) if batch.logp_old_BL is None else batch.logp_old_BL
        metrics |= {
            "policy/entropy": jnp.sum(jax.lax.stop_gradient(entropy_RT) * rows.weight_RT) / tokens,
            "policy/sampler_mismatch": jnp.sum(jnp.abs(batch.logp_sampler_BL - old_BL), where=here_BL) / tokens,
        }
        balance = aux.balance / jnp.maximum(segments, 1)
        return loss + router.balance_coef * balance, (metrics, aux)

    grads, metrics, aux = accumulate(loss, state.params, micro_batches(batch.packed, batch_config.micro_rows))
    state, metrics = apply_gradients(state, grads, metrics, aux, router, optimizer)
    metrics["update/padding"] = padding(batch.packed, batch_config.micro_rows)
    return state, metrics


def of_micro_batch(index_BL: Array, micro: Array, batch: BatchConfig) -> tuple[jax.Array, jax.Array]:
    """(index_BL within the rows of a micro-batch, here_BL: whether it holds the token).

    A micro-batch holds whole sequences; those of the others are masked out here and counted there.
    """
    places = batch.micro_rows * batch.row_length
    local_BL = jnp.where(index_BL >= 0, index_BL - micro * places, -1)
    return local_BL, (local_BL >= 0) & (local_BL < places)


def segment_count(segment_RT: Array) -> jax.Array:
    """How many segments some packed rows hold."""
    before = jnp.pad(segment_RT[:, :-1], ((0, 0), (1, 0)))
    return jnp.sum((segment_RT != before) & (segment_RT > 0))


def micro_batches(packed: Packed, micro_rows: int) -> Packed:
    """[R, ...] -> [R / micro_rows, micro_rows, ...]."""
    rows = packed.tokens_RT.shape[0]
    if rows % micro_rows:
        raise ValueError(f"{rows} rows do not divide into batch.micro_rows ({micro_rows}); make it a divisor")
    return jax.tree.map(lambda x: x.reshape(-1, micro_rows, *x.shape[1:]), packed)


def skipping(of_rows: Callable[..., Any]) -> Callable[..., Any]:
    """`of_rows(rows, ...)`, and zeros for rows that hold nothing: their cost is saved, at run time.

    So batches of any size are served by one program, as large as the largest.
    """

    def of(rows: Packed, *more: Any) -> Any:
        out = jax.eval_shape(of_rows, rows, *more)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), out)
        return jax.lax.cond(jnp.any(rows.segment_RT > 0), of_rows, lambda *_: zeros, rows, *more)

    return of


def padding(packed: Packed, micro_rows: int) -> jax.Array:
    """The share of places without a token, in those micro-batches that hold any."""
    real_MrT = packed.segment_RT.reshape(-1, micro_rows, packed.segment_RT.shape[1]) > 0
    computed = jnp.sum(jnp.any(real_MrT, axis=(1, 2)))
    return 1.0 - jnp.sum(real_MrT) / jnp.maximum(computed * real_MrT[0].size, 1)


def accumulate(loss: Any, params: PyTree, micro: Packed) -> tuple[PyTree, dict[str, jax.Array], Aux]:
    """Sums gradients, metrics and router loads over micro-batches of `loss(params, rows, i) -> (_, (metrics, aux))`.

    Gradients come and are summed in float32, whatever the parameters are: a bfloat16 sum stops growing when it is 256
    times what is added.
    """

    def one(rows: Packed, i: Array) -> tuple[PyTree, dict[str, jax.Array], Aux]:
        def of(trained: PyTree):
            return loss({"params": trained, "router": params["router"]}, rows, i)

        grads, (metrics, aux) = jax.grad(of, has_aux=True)(params["params"])
        return optax.tree.cast(grads, jnp.float32), metrics, aux

    count = micro.tokens_RT.shape[0]
    if count == 1:
        return one(jax.tree.map(lambda x: x[0], micro), jnp.int32(0))

    def add(total, item):
        return jax.tree.map(jnp.add, total, skipping(one)(*item)), None

    first = jax.eval_shape(one, jax.tree.map(lambda x: x[0], micro), jnp.int32(0))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
    return jax.lax.scan(add, zeros, (micro, jnp.arange(count)))[0]


def apply_gradients(
    state: TrainState,
    grads: PyTree,
    metrics: dict[str, jax.Array],
    aux: Aux,
    router: RouterConfig,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The optimizer's step, and the router's: the bias of an overloaded expert falls, of an underloaded one rises.

    A layer of multi-token prediction that the loss did not read, so that `aux` has no load of it, stays as it is:
    weight decay would wear it down.

    Source of the router's: arXiv 2408.15664, algorithm 1; arXiv 2412.19437, section 2.1.2.
    """
    updates, opt_state = optimizer.update(grads, state.optimizer, state.params["params"])
    if "mtp" in updates and not _mtp_is_trained(state.params["router"], aux):
        updates = updates | {"mtp": jax.tree.map(jnp.zeros_like, updates["mtp"])}
    weights, opt_state = apply_updates(state.params["params"], updates, opt_state)
    params = {"params": weights, "router": state.params["router"]}
    metrics["grad_norm"] = optax.tree.norm(grads)
    if aux.load_NE.shape[0]:
        load_NE = aux.load_NE.astype(jnp.float32)
        mean = load_NE.mean(axis=1, keepdims=True)
        metrics["moe/max_load"] = jnp.max(load_NE / jnp.maximum(mean, 1e-9))
        metrics["moe/dropped"] = aux.dropped
        if router.bias_rate:
            shift_NE = router.bias_rate * jnp.sign(mean - load_NE)
            params["router"] = _shift_biases(params["router"], shift_NE, _mtp_is_trained(params["router"], aux))
    return state._replace(params=params, optimizer=opt_state), metrics


def _mtp_is_trained(biases: PyTree, aux: Aux) -> bool:
    """Whether the loads have a row more than the policy has mixture layers."""
    (bias_NE,) = jax.tree.leaves(biases["moe"])
    return bool(aux.load_NE.shape[0] > bias_NE.shape[0])


def _shift_biases(biases: PyTree, shift_NE: jax.Array, with_mtp: bool) -> PyTree:
    """The load biases moved by `shift_NE`, whose last row is, `with_mtp`, that of multi-token prediction."""
    main_NE, (mtp_E,) = (shift_NE[:-1], shift_NE[-1:]) if with_mtp else (shift_NE, (0.0,))
    shifts = {"moe": main_NE, "mtp": mtp_E}
    return {name: jax.tree.map(lambda bias: bias + shifts[name], tree) for name, tree in biases.items()}  # noqa: B023
