"""The sections that stages are made of. None has a default, but for what may be left out as a whole."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from r1jax.config.checks import at_least, one_of, sampling


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """SentencePiece, trained on the stage's corpus; ignored where `init_from` brings a tokenizer."""

    vocab_size: int
    train_documents: int  # documents of the corpus it is trained on
    max_piece_length: int  # characters
    across_words: bool  # pieces may span spaces, so that a fixed phrase is a few tokens

    def __post_init__(self):
        at_least(1, "tokenizer", self, "vocab_size", "train_documents", "max_piece_length")


@dataclasses.dataclass(frozen=True)
class SourceSpec:
    name: str  # a corpus (SFT) or a task, as data/tasks.py names them
    weight: float  # share of the examples, relative to the other sources
    kwargs: dict[str, Any]  # the builder's parameters


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where examples come from."""

    sources: dict[str, SourceSpec]
    data_dir: str  # prepared ArrayRecords are kept here
    source_dir: str  # local folder of raw files; "" downloads from the public source

    def __post_init__(self):
        if not self.sources:
            raise ValueError("data.sources is empty; expected at least one entry, NAME -> {name, weight, kwargs}")


@dataclasses.dataclass(frozen=True)
class PrecisionConfig:
    """How exactly an optimizer remembers. Without it: moments in float32, and the parameters are all there is."""

    moments: str  # float32 | bfloat16
    master: bool  # bfloat16 parameters have float32 copies, which the updates move and the parameters are rounded from

    def __post_init__(self):
        one_of("precision.moments", self.moments, ("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """An update rule with linear warmup, then constant or cosine to `final_scale` of the peak."""

    rule: str  # adamw | muon
    lr: float
    warmup_steps: int
    schedule: str  # constant | cosine
    final_scale: float
    beta1: float  # of the momentum
    beta2: float  # of the squares; under Muon those of embedding, head, router and vectors only
    eps: float
    weight_decay: float
    clip_norm: float
    precision: PrecisionConfig | None = None

    def __post_init__(self):
        one_of("optimizer.rule", self.rule, ("adamw", "muon"))
        one_of("optimizer.schedule", self.schedule, ("constant", "cosine"))
        at_least(0, "optimizer", self, "lr", "warmup_steps", "final_scale", "eps", "weight_decay", "clip_norm")
        if self.precision and self.precision.moments == "bfloat16":
            for field in ("beta1", "beta2"):
                _check_decay(field, getattr(self, field))


def _check_decay(field: str, beta: float) -> None:
    """Refuses a moment that its 8 significant bits keep from ever falling: beta times it rounds back to it."""
    if 1 - beta < 2**-8:
        raise ValueError(
            f"optimizer.{field} is {beta} and precision.moments 'bfloat16', which rounds so slow a decay away; lower "
            f"the first to {1 - 2**-8} or less, or keep moments in 'float32'"
        )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 takes what is left."""

    data: int
    fsdp: int
    expert: int
    tensor: int
    context: int


@dataclasses.dataclass(frozen=True)
class LongerConfig:
    """A limit of tokens that is raised in mid-run, as R1-Zero's was. Each compiles the rollout and the update anew."""

    step: int  # the first under it
    max_tokens: int


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    prompts: int  # P, a step
    samples: int  # G, a prompt
    temperature: float
    top_k: int  # 0: all
    top_p: float
    max_tokens: int  # of a completion, from the first step on
    ahead: int  # steps that a batch is sampled before it is learnt from: 0, or 1, while the batch before it is graded
    precision: str  # of the sampler: policy (the policy's own) | bfloat16 | int8 (weights; the cache bfloat16)
    slots: (
        int  # sequences decoded at once, the others as these end; a multiple of what the mesh splits them over; 0: all
    )
    longer: list[LongerConfig] = dataclasses.field(default_factory=list)  # in order; none: the limit stays
    mesh: MeshConfig | None = None  # of the same devices, while tokens are sampled; without it, the stage's

    def __post_init__(self):
        at_least(1, "rollout", self, "prompts", "samples", "max_tokens", why="an empty batch trains nothing")
        sampling("rollout", self.temperature, self.top_p)
        at_least(0, "rollout", self, "top_k", "slots")
        one_of("rollout.ahead", self.ahead, (0, 1))
        one_of("rollout.precision", self.precision, ("policy", "bfloat16", "int8"))
        if self.temperature == 0:
            raise ValueError(
                "rollout.temperature is 0; samples of a prompt would be all the same: raise it, to 1.0 say"
            )
        step, tokens = 1, self.max_tokens
        for i, longer in enumerate(self.longer):
            if longer.step <= step or longer.max_tokens <= tokens:
                raise ValueError(
                    f"rollout.longer[{i}] is {longer.max_tokens} tokens from step {longer.step}; expected more than "
                    f"{tokens} tokens, and a step after {step}: give the limits in order"
                )
            step, tokens = longer.step, longer.max_tokens

    def limit(self, step: int) -> int:
        """Tokens of a completion at a step, counted from 1."""
        return next((x.max_tokens for x in reversed(self.longer) if step >= x.step), self.max_tokens)

    def longest(self) -> int:
        """Tokens of a completion at the last step."""
        return self.longer[-1].max_tokens if self.longer else self.max_tokens


@dataclasses.dataclass(frozen=True)
class GrpoConfig:
    """The objective's options; the formulas stand in `losses/policy_gradient.py`. PPO and RAFT read some of them."""

    advantage_scale: str  # std | none | batch
    aggregation: str  # sum_then_normalize | normalize_then_sum: each reward against its own group (GDPO)
    clip_low: float
    clip_high: float
    kl_coef: float
    kl_estimator: str  # k3 | k2 | k1
    reduction: str  # sequence | token | constant
    importance: str  # token | sequence | sequence_mean
    sampler_cap: float  # of a token's weight, the trainer's probability over the sampler's; 0: all weigh 1
    minibatches: int  # updates an epoch over one rollout batch
    epochs: int
    reference_refresh: int  # steps between hard copies policy -> reference; 0: never

    def __post_init__(self):
        one_of("grpo.advantage_scale", self.advantage_scale, ("std", "none", "batch"))
        one_of("grpo.aggregation", self.aggregation, ("sum_then_normalize", "normalize_then_sum"))
        one_of("grpo.kl_estimator", self.kl_estimator, ("k3", "k2", "k1"))
        one_of("grpo.reduction", self.reduction, ("sequence", "token", "constant"))
        one_of("grpo.importance", self.importance, ("token", "sequence", "sequence_mean"))
        at_least(1, "grpo", self, "minibatches", "epochs")
        at_least(0, "grpo", self, "clip_low", "clip_high", "kl_coef", "reference_refresh")
        self._check_sampler_cap()
        if self.reference_refresh and not self.kl_coef:
            raise ValueError(
                f"grpo.reference_refresh is {self.reference_refresh} and grpo.kl_coef 0; without a KL there is no "
                "reference to refresh: set the first to 0, or raise the second"
            )

    def _check_sampler_cap(self) -> None:
        if self.sampler_cap != 0 and not self.sampler_cap >= 1:
            raise ValueError(
                f"grpo.sampler_cap is {self.sampler_cap!r}; expected 0, which leaves the weights out, or at least 1, "
                "which an exact sampler's tokens weigh"
            )
        if self.sampler_cap and self.importance != "token":
            raise ValueError(
                f"grpo.sampler_cap is {self.sampler_cap} under grpo.importance {self.importance!r}; its weights are "
                "each token's: set the first to 0, or the second to 'token'"
            )


@dataclasses.dataclass(frozen=True)
class PpoConfig:
    """PPO in GRPO's place: a critic foresees the reward of each token, and the KL is a part of the reward.

    Of `grpo` it reads all but `aggregation`; `advantage_scale` is "batch" (whitened over the batch's tokens) or "none",
    `importance` "token".
    """

    discount: float  # gamma
    decay: float  # lambda, of generalized advantage estimation
    value_clip: float  # how far a value may move in one step, in units of reward; 0: as it likes
    optimizer: OptimizerConfig  # the critic's

    def __post_init__(self):
        at_least(0, "ppo", self, "value_clip", "discount", "decay")
        for field in ("discount", "decay"):
            if getattr(self, field) > 1:
                raise ValueError(f"ppo.{field} is {getattr(self, field)!r}; expected a number in 0..1")


@dataclasses.dataclass(frozen=True)
class RaftConfig:
    """RAFT in GRPO's place: the policy is fine-tuned on the best of its own samples.

    Of `grpo` it reads `minibatches` and `epochs`.
    """

    keep: str  # best: of each group; all: every sample good enough
    least: float  # total reward of a sample that is good enough

    def __post_init__(self):
        one_of("raft.keep", self.keep, ("best", "all"))
        if not math.isfinite(self.least):
            raise ValueError(
                f"raft.least is {self.least!r}; expected a number: 0.0 keeps what earned anything or nothing"
            )


@dataclasses.dataclass(frozen=True)
class DynamicSamplingConfig:
    """More prompts are sampled than are learnt from: those whose samples' rewards agree teach nothing (DAPO)."""

    drawn: int  # prompts sampled a step, of which `rollout.prompts` are kept: those with a spread first


@dataclasses.dataclass(frozen=True)
class OffloadConfig:
    """What waits in the host's memory until it is needed. Without it: nothing."""

    reference: bool  # the reference policy, which is on the devices while it scores


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """How sequences become device batches."""

    row_length: int  # T, tokens of a packed row
    rows: int  # SFT: rows a step; RL: rows are added in multiples of this, and micro-batches without a token skipped
    micro_rows: int  # rows a forward-backward pass; gradients are accumulated over the rest
    logit_chunk: int  # tokens whose logits exist at once

    def __post_init__(self):
        fields = ("row_length", "rows", "micro_rows", "logit_chunk")
        at_least(1, "batch", self, *fields, why="an empty batch trains nothing")
        if self.rows % self.micro_rows:
            raise ValueError(f"batch.rows is {self.rows}; expected a multiple of batch.micro_rows ({self.micro_rows})")


@dataclasses.dataclass(frozen=True)
class RouterConfig:
    bias_rate: float  # step of the load bias; 0 freezes it
    balance_coef: float  # weight of the sequence-wise balance loss


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    name: str  # NAME[:SPLIT]
    kwargs: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    tasks: dict[str, TaskSpec]
    samples: int  # K
    limit: int  # problems a task; 0: all
    every: int  # steps between evaluations in a run; 0: only at the end
    every_samples: int  # K of those
    every_limit: int
    temperature: float
    top_p: float
    max_tokens: int
    batch: int  # prompts decoded together

    def __post_init__(self):
        at_least(1, "evaluation", self, "samples", "every_samples", "max_tokens", "batch")
        at_least(0, "evaluation", self, "limit", "every", "every_limit")
        sampling("evaluation", self.temperature, self.top_p)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every: int  # steps
    keep: int  # newest kept

    def __post_init__(self):
        at_least(1, "checkpoint", self, "every", "keep")


@dataclasses.dataclass(frozen=True)
class LogConfig:
    samples_every: int  # steps between lines of samples.jsonl; 0: never
    samples: int  # completions logged each time

    def __post_init__(self):
        at_least(0, "log", self, "samples_every", "samples")


@dataclasses.dataclass(frozen=True)
class RewardSpec:
    """One reward. The keys below the first two may be left out: they restrict, and an absent one restricts nothing."""

    fn: str  # "package.module:function"
    weight: float
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    tasks: list[str] = dataclasses.field(default_factory=list)  # those it applies to, '*' for any text; empty: all
    start: int = 1  # the first step at which it counts
    stop: int = 0  # the last one; 0: it goes on to the end
    process: bool = False  # call it in a process of its own, which is killed when it hangs


@dataclasses.dataclass(frozen=True)
class RewardsConfig:
    """How rewards are computed; what they are stands in `rewards`."""

    timeout_s: float  # of one reward function on one batch
    on_error: float  # the score of a completion whose reward raised, hung or was not finite
    workers: int  # processes that grade


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """A checkpoint with the student's tokenizer, whose distribution is learnt beside the text (distillation)."""

    folder: str  # of the checkpoint, or a stage's name
    alpha: float  # weight of the KL to the teacher; the text's cross-entropy has 1 - alpha

    def __post_init__(self):
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"teacher.alpha is {self.alpha!r}; expected a number in 0..1")


@dataclasses.dataclass(frozen=True)
class ComparisonBatchConfig:
    """How questions with their replies become device batches."""

    examples: int  # pairs, or labelled replies, a step
    row_length: int  # T, tokens of a packed row; a question with its replies must fit one
    rows: int  # rows are added in multiples of this
    micro_rows: int  # rows a forward-backward pass; gradients are accumulated over the rest

    def __post_init__(self):
        at_least(1, "batch", self, "examples", "row_length", "rows", "micro_rows", why="an empty batch trains nothing")
        if self.rows % self.micro_rows:
            raise ValueError(f"batch.rows is {self.rows}; expected a multiple of batch.micro_rows ({self.micro_rows})")


@dataclasses.dataclass(frozen=True)
class HeldOutConfig:
    """How a reward model is held against examples it has not learnt from."""

    limit: int  # examples of each source; 0: all
    every: int  # steps between evaluations in a run; 0: only at the end
    every_limit: int

    def __post_init__(self):
        at_least(0, "evaluation", self, "limit", "every", "every_limit")
