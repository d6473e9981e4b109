"""ConfigDict -> frozen sections: one dataclass a section, checked once, at start.

`configs/NAME.py:get_config()` returns a complete, locked `ConfigDict`; `stage_config` splats it into the
dataclasses below, so that a missing, unknown or ill-typed key fails before any work is done. No value below
has a default: a config is the whole truth about a run. What may be left out is an option as a whole (a section
`| None`, a list), and then the stage does without.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types as python_types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """Shape of a policy: DeepSeek-V3's, or a dense Qwen's or Llama's. Letters are those of `types.py`.

    What a choice leaves unused is 0, "none" or False: under `attention` "gqa" the sizes of "mla", and the reverse;
    in a dense policy (`dense_layers` = `layers`) what describes experts.
    """

    vocab_size: int  # V
    width: int  # D
    layers: int  # N
    dense_layers: int  # the first layers, whose feed-forward is dense
    attention: str  # mla | gqa
    heads: int  # H
    q_lora_rank: int  # mla; 0: queries are projected straight from the width
    kv_lora_rank: int  # mla
    nope_head_dim: int  # mla
    rope_head_dim: int  # mla
    v_head_dim: int  # mla
    kv_heads: int  # K, gqa
    head_dim: int  # C, gqa
    attention_bias: bool  # gqa: biases on queries, keys and values (Qwen2)
    qk_norm: bool  # gqa: RMSNorm of each head's query and key, before they are rotated (Qwen3)
    attention_block: int  # tokens of a block of blockwise attention; 0: whole [T, T] scores
    rope_theta: float
    rope_pairs: str  # interleaved (DeepSeek) | halves (Qwen, Llama)
    rope_scaling: str  # none | yarn | llama3
    rope_factor: float  # yarn, llama3: how many times longer than rope_original
    rope_original: int  # yarn, llama3: tokens of a sequence before scaling
    rope_beta_fast: float  # yarn: turns over rope_original from which a wave is kept
    rope_beta_slow: float  # yarn: turns up to which it is stretched by rope_factor
    rope_mscale: float  # yarn: growth of the rotated part with log(rope_factor)
    rope_mscale_all: float  # yarn: growth of the scores' scale with it, squared
    rope_low: float  # llama3: turns over rope_original up to which a wave is stretched
    rope_high: float  # llama3: turns from which it is kept
    dense_ffn: int  # width of a dense feed-forward
    experts: int  # E, routed
    active_experts: int  # A
    shared_experts: int
    expert_ffn: int  # F
    score: str  # sigmoid (V3) | softmax (V2)
    expert_groups: int
    kept_groups: int
    group_score: str  # top2 (V3: sum of a group's two best) | max (V2)
    norm_topk: bool  # combine weights sum to 1 before routed_scale
    routed_scale: float
    mtp_layers: int  # multi-token prediction: 0 | 1
    tied: bool  # the head is the embedding, transposed
    norm_eps: float
    context: int  # longest sequence, tokens
    init_scale: float  # standard deviation of the initial weights
    dtype: str  # compute: float32 | bfloat16
    param_dtype: str  # float32 | bfloat16
    remat: str  # none | full | dots

    def __post_init__(self):
        for name in ("dtype", "param_dtype"):
            _one_of(f"policy.{name}", getattr(self, name), ("float32", "bfloat16"))
        _one_of("policy.remat", self.remat, ("none", "full", "dots"))
        _one_of("policy.attention", self.attention, ("mla", "gqa"))
        _one_of("policy.rope_pairs", self.rope_pairs, ("interleaved", "halves"))
        _one_of("policy.rope_scaling", self.rope_scaling, ("none", "yarn", "llama3"))
        _one_of("policy.mtp_layers", self.mtp_layers, (0, 1))
        _at_least(1, "policy", self, "vocab_size", "width", "layers", "heads", "context")
        _at_least(0, "policy", self, "attention_block")
        if not 0 <= self.dense_layers <= self.layers:
            raise ValueError(f"policy.dense_layers is {self.dense_layers}; expected 0..layers ({self.layers})")
        _check_attention(self)
        _check_rope_scaling(self)
        if self.dense_layers < self.layers:
            _check_mixture(self)
        elif self.mtp_layers:
            raise ValueError("policy.mtp_layers is 1 in a dense policy; its layer is a mixture: set it to 0")


def _check_attention(policy: PolicyConfig) -> None:
    latent = ("kv_lora_rank", "nope_head_dim", "rope_head_dim", "v_head_dim", "q_lora_rank")
    grouped = ("kv_heads", "head_dim", "attention_bias", "qk_norm")
    used, unused = (latent, grouped) if policy.attention == "mla" else (grouped, latent)
    _at_least(1, "policy", policy, *used[:2])
    for field in unused:
        if getattr(policy, field):
            raise ValueError(
                f"policy.{field} is {getattr(policy, field)!r}, which policy.attention {policy.attention!r} has no "
                f"use for; set it to {type(getattr(policy, field))()!r}"
            )
    if policy.attention == "mla":
        _at_least(1, "policy", policy, "rope_head_dim", "v_head_dim")
        _at_least(0, "policy", policy, "q_lora_rank")
    elif policy.heads % policy.kv_heads:
        raise ValueError(f"policy.kv_heads is {policy.kv_heads}; expected a divisor of policy.heads ({policy.heads})")
    rotated = "rope_head_dim" if policy.attention == "mla" else "head_dim"
    if getattr(policy, rotated) % 2:
        raise ValueError(f"policy.{rotated} is {getattr(policy, rotated)}; it must be even (rotary pairs)")


def _check_rope_scaling(policy: PolicyConfig) -> None:
    if policy.rope_scaling == "none":
        return
    _at_least(1, "policy", policy, "rope_factor", "rope_original")
    low, high = ("rope_beta_slow", "rope_beta_fast") if policy.rope_scaling == "yarn" else ("rope_low", "rope_high")
    if not 0 < getattr(policy, low) < getattr(policy, high):
        raise ValueError(
            f"policy.{low} is {getattr(policy, low)} and policy.{high} {getattr(policy, high)}; expected "
            f"0 < {low} < {high} under policy.rope_scaling {policy.rope_scaling!r}"
        )
    if policy.rope_scaling == "yarn":
        _at_least(0, "policy", policy, "rope_mscale", "rope_mscale_all")


def _check_mixture(policy: PolicyConfig) -> None:
    _one_of("policy.score", policy.score, ("sigmoid", "softmax"))
    _one_of("policy.group_score", policy.group_score, ("top2", "max"))
    _at_least(1, "policy", policy, "experts", "expert_ffn", "expert_groups")
    _at_least(0, "policy", policy, "shared_experts")
    if policy.experts % policy.expert_groups or not 1 <= policy.kept_groups <= policy.expert_groups:
        raise ValueError(
            f"policy.expert_groups is {policy.expert_groups} and kept_groups {policy.kept_groups}; "
            f"groups must divide experts ({policy.experts}) and kept_groups lie in 1..expert_groups"
        )
    reachable = policy.experts // policy.expert_groups * policy.kept_groups
    if not 1 <= policy.active_experts <= reachable:
        raise ValueError(
            f"policy.active_experts is {policy.active_experts}; expected 1..{reachable}, the experts of the kept groups"
        )


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """SentencePiece, trained on the stage's corpus; ignored where `init_from` brings a tokenizer."""

    vocab_size: int
    train_documents: int  # documents of the corpus it is trained on
    max_piece_length: int  # characters
    across_words: bool  # pieces may span spaces, so that a fixed phrase is a few tokens

    def __post_init__(self):
        _at_least(1, "tokenizer", self, "vocab_size", "train_documents", "max_piece_length")


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

    def __post_init__(self):
        _one_of("optimizer.rule", self.rule, ("adamw", "muon"))
        _one_of("optimizer.schedule", self.schedule, ("constant", "cosine"))
        _at_least(0, "optimizer", self, "lr", "warmup_steps", "final_scale", "eps", "weight_decay", "clip_norm")


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
    longer: list[LongerConfig] = dataclasses.field(default_factory=list)  # in order; none: the limit stays

    def __post_init__(self):
        _at_least(1, "rollout", self, "prompts", "samples", "max_tokens", why="an empty batch trains nothing")
        _sampling("rollout", self.temperature, self.top_p)
        _at_least(0, "rollout", self, "top_k")
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
    minibatches: int  # updates an epoch over one rollout batch
    epochs: int
    reference_refresh: int  # steps between hard copies policy -> reference; 0: never

    def __post_init__(self):
        _one_of("grpo.advantage_scale", self.advantage_scale, ("std", "none", "batch"))
        _one_of("grpo.aggregation", self.aggregation, ("sum_then_normalize", "normalize_then_sum"))
        _one_of("grpo.kl_estimator", self.kl_estimator, ("k3", "k2", "k1"))
        _one_of("grpo.reduction", self.reduction, ("sequence", "token", "constant"))
        _one_of("grpo.importance", self.importance, ("token", "sequence", "sequence_mean"))
        _at_least(1, "grpo", self, "minibatches", "epochs")
        _at_least(0, "grpo", self, "clip_low", "clip_high", "kl_coef", "reference_refresh")
        if self.reference_refresh and not self.kl_coef:
            raise ValueError(
                f"grpo.reference_refresh is {self.reference_refresh} and grpo.kl_coef 0; without a KL there is no "
                "reference to refresh: set the first to 0, or raise the second"
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
        _at_least(0, "ppo", self, "value_clip", "discount", "decay")
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
        _one_of("raft.keep", self.keep, ("best", "all"))
        if not math.isfinite(self.least):
            raise ValueError(
                f"raft.least is {self.least!r}; expected a number: 0.0 keeps what earned anything or nothing"
            )


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """How sequences become device batches."""

    row_length: int  # T, tokens of a packed row
    rows: int  # SFT: rows a step; RL: rows are added in multiples of this
    micro_rows: int  # rows a forward-backward pass; gradients are accumulated over the rest
    logit_chunk: int  # tokens whose logits exist at once

    def __post_init__(self):
        fields = ("row_length", "rows", "micro_rows", "logit_chunk")
        _at_least(1, "batch", self, *fields, why="an empty batch trains nothing")
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
        _at_least(1, "evaluation", self, "samples", "every_samples", "max_tokens", "batch")
        _at_least(0, "evaluation", self, "limit", "every", "every_limit")
        _sampling("evaluation", self.temperature, self.top_p)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every: int  # steps
    keep: int  # newest kept

    def __post_init__(self):
        _at_least(1, "checkpoint", self, "every", "keep")


@dataclasses.dataclass(frozen=True)
class LogConfig:
    samples_every: int  # steps between lines of samples.jsonl; 0: never
    samples: int  # completions logged each time

    def __post_init__(self):
        _at_least(0, "log", self, "samples_every", "samples")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 takes what is left."""

    data: int
    fsdp: int
    expert: int
    tensor: int
    context: int


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
class SftStage:
    """Supervised fine-tuning; from scratch (`init_from` empty) it is pretraining."""

    stage: str
    seed: int
    steps: int
    init_from: str
    template: str
    policy: PolicyConfig
    tokenizer: TokenizerConfig
    data: DataConfig
    batch: BatchConfig
    optimizer: OptimizerConfig
    router: RouterConfig
    mtp_coef: float  # weight of the multi-token prediction loss; 0: it is not computed
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    mesh: MeshConfig
    grading: RewardsConfig
    teacher: TeacherConfig | None = None

    def __post_init__(self):
        _check_stage(self)
        if self.teacher and self.mtp_coef:
            raise ValueError(
                f"config.mtp_coef is {self.mtp_coef} beside a teacher, which shows the next token alone: set it to 0"
            )
        _at_least(0, "config", self, "mtp_coef")
        if self.mtp_coef and not self.policy.mtp_layers:
            raise ValueError(
                f"config.mtp_coef is {self.mtp_coef} and policy.mtp_layers 0; there is nothing that predicts the token "
                "after next: set the first to 0, or the second to 1"
            )


@dataclasses.dataclass(frozen=True)
class RlStage:
    """Reinforcement learning: GRPO, or where their sections are given PPO or RAFT."""

    stage: str
    seed: int
    steps: int
    init_from: str
    template: str
    policy: PolicyConfig
    data: DataConfig
    rollout: RolloutConfig
    rewards: dict[str, RewardSpec]
    grading: RewardsConfig
    grpo: GrpoConfig
    batch: BatchConfig
    optimizer: OptimizerConfig
    router: RouterConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    mesh: MeshConfig
    ppo: PpoConfig | None = None
    raft: RaftConfig | None = None

    def __post_init__(self):
        _check_stage(self)
        _check_algorithm(self)
        if self.rollout.prompts % self.grpo.minibatches:
            raise ValueError(
                f"grpo.minibatches is {self.grpo.minibatches}; expected a divisor of rollout.prompts "
                f"({self.rollout.prompts}), as a group is never split"
            )


@dataclasses.dataclass(frozen=True)
class ComparisonBatchConfig:
    """How questions with their replies become device batches."""

    examples: int  # pairs, or labelled replies, a step
    row_length: int  # T, tokens of a packed row; a question with its replies must fit one
    rows: int  # rows are added in multiples of this
    micro_rows: int  # rows a forward-backward pass; gradients are accumulated over the rest

    def __post_init__(self):
        _at_least(1, "batch", self, "examples", "row_length", "rows", "micro_rows", why="an empty batch trains nothing")
        if self.rows % self.micro_rows:
            raise ValueError(f"batch.rows is {self.rows}; expected a multiple of batch.micro_rows ({self.micro_rows})")


@dataclasses.dataclass(frozen=True)
class HeldOutConfig:
    """How a reward model is held against examples it has not learnt from."""

    limit: int  # examples of each source; 0: all
    every: int  # steps between evaluations in a run; 0: only at the end
    every_limit: int

    def __post_init__(self):
        _at_least(0, "evaluation", self, "limit", "every", "every_limit")


@dataclasses.dataclass(frozen=True)
class RewardModelStage:
    """A scalar head on a policy, trained on what is preferred."""

    stage: str
    seed: int
    steps: int
    init_from: str
    template: str
    objective: str  # bradley_terry, of pairs | pointwise, of replies labelled safe or not
    policy: PolicyConfig
    sources: dict[str, SourceSpec]  # replies:helpful | replies:harmless | jsonl:PATH
    batch: ComparisonBatchConfig
    optimizer: OptimizerConfig
    router: RouterConfig
    evaluation: HeldOutConfig
    checkpoint: CheckpointConfig
    mesh: MeshConfig

    def __post_init__(self):
        _check_stage(self)
        _one_of("config.objective", self.objective, ("bradley_terry", "pointwise"))
        if not self.sources:
            raise ValueError("config.sources is empty; expected at least one entry, NAME -> {name, weight, kwargs}")


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """Which samples a dataset keeps."""

    threshold: float  # least reward of a sample that counts as right
    keep: str  # of a prompt's right samples: best | all
    filters: dict[str, dict[str, Any]]  # of rewards/filters.py, with their arguments; the first to object counts
    held_out: dict[str, TaskSpec]  # no question of theirs may be learnt
    held_out_ngram: int  # words in a row that betray one
    similar_ngram: int  # words of the n-grams by which samples are compared
    similarity: float  # Jaccard index from which two samples are one; 1: only where all n-grams are the same

    def __post_init__(self):
        _one_of("selection.keep", self.keep, ("best", "all"))
        _at_least(1, "selection", self, "held_out_ngram", "similar_ngram")
        if not math.isfinite(self.threshold):
            raise ValueError(f"selection.threshold is {self.threshold!r}; expected a finite number, such as 1.0")
        if not 0 < self.similarity <= 1:
            raise ValueError(f"selection.similarity is {self.similarity!r}; expected above 0 and at most 1")


@dataclasses.dataclass(frozen=True)
class JoinConfig:
    """Records that go into a dataset as they stand, such as general requests with their replies."""

    sources: dict[str, SourceSpec]
    ratio: float  # records joined to each sample that was kept

    def __post_init__(self):
        _at_least(0, "join", self, "ratio")
        if bool(self.sources) != bool(self.ratio):
            raise ValueError(f"join.ratio is {self.ratio} with {len(self.sources)} sources; give both, or neither")


@dataclasses.dataclass(frozen=True)
class RejectionStage:
    """Rejection sampling: a checkpoint's own samples, those that are right and fit to be learnt from."""

    stage: str
    seed: int
    init_from: str
    template: str
    data: DataConfig  # whose train splits are the prompts
    limit: int  # prompts of each source; 0: all
    shards: int  # pieces of work, each done by one process
    rollout: RolloutConfig
    rewards: dict[str, RewardSpec]
    grading: RewardsConfig
    selection: SelectionConfig
    join: JoinConfig
    mesh: MeshConfig

    def __post_init__(self):
        _check_dataset_stage(self)


@dataclasses.dataclass(frozen=True)
class WayConfig:
    """One way to long chains of thought: whom to ask, and how."""

    init_from: str
    weight: float  # share of the prompts
    template: str  # a template's name; "" where `prompt` is the text
    prompt: str  # with {question}: after worked examples, or with the wish to reflect and verify; "" for `template`
    stop: str  # where a completion that goes on is cut; "" nowhere

    def __post_init__(self):
        if bool(self.template) == bool(self.prompt):
            raise ValueError(
                f"ways.template is {self.template!r} and ways.prompt {self.prompt!r}; give one, and '' for the other"
            )
        if self.prompt and "{question}" not in self.prompt:
            raise ValueError(f"ways.prompt is {self.prompt!r}; expected a text that says where the {{question}} goes")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"ways.weight is {self.weight!r}; expected a number above 0")


@dataclasses.dataclass(frozen=True)
class RewriterConfig:
    """A model that makes thoughts readable."""

    model: dict[str, Any]  # as a judge's, see stages/graders.py; {}: rules alone
    prompt: str  # with {question} and {thought}

    def __post_init__(self):
        if self.model and not ("{question}" in self.prompt and "{thought}" in self.prompt):
            raise ValueError(f"rewriter.prompt is {self.prompt!r}; expected a text with {{question}} and {{thought}}")


@dataclasses.dataclass(frozen=True)
class ColdStartStage:
    """Cold-start data: long chains of thought collected in several ways, all brought into R1's readable form."""

    stage: str
    seed: int
    template: str  # that the data are to be learnt in
    ways: dict[str, WayConfig]
    summaries: dict[str, str]  # by language: the summary, with {answer}
    rewriter: RewriterConfig
    data: DataConfig
    limit: int
    shards: int
    rollout: RolloutConfig
    rewards: dict[str, RewardSpec]  # of the readable completions
    grading: RewardsConfig
    selection: SelectionConfig
    mesh: MeshConfig

    def __post_init__(self):
        _check_dataset_stage(self)
        if not self.ways:
            raise ValueError("config.ways is empty; expected at least one, NAME -> {init_from, weight, ...}")
        for language, text in self.summaries.items():
            if "{answer}" not in text:
                raise ValueError(f"config.summaries.{language} is {text!r}; expected a text with {{answer}}")


@dataclasses.dataclass(frozen=True)
class ConvertedStage:
    """What an imported checkpoint says of itself: how to prompt and evaluate it. No stage made it, and none is run."""

    stage: str
    template: str
    policy: PolicyConfig
    data: DataConfig
    evaluation: EvaluationConfig
    grading: RewardsConfig


TrainedStage = SftStage | RlStage | RewardModelStage  # makes a checkpoint
DatasetStage = RejectionStage | ColdStartStage  # makes a dataset
AnyStage = TrainedStage | DatasetStage
STAGES = {
    "sft": SftStage,
    "rl": RlStage,
    "reward_model": RewardModelStage,
    "rejection": RejectionStage,
    "cold_start": ColdStartStage,
}
CONVERTED = "converted"  # the stage of a `ConvertedStage`


def _one_of(field: str, got: Any, expected: tuple) -> None:
    if got not in expected:
        near = difflib.get_close_matches(str(got), [str(e) for e in expected], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{field} is {got!r}; expected one of {', '.join(map(repr, expected))}{hint}")


def _at_least(least: int, section: str, values: Any, *fields: str, why: str = "") -> None:
    for field in fields:
        got = getattr(values, field)
        if not got >= least:  # also refuses NaN
            raise ValueError(f"{section}.{field} is {got!r}; expected at least {least}{why and ': ' + why}")


def _sampling(section: str, temperature: float, top_p: float) -> None:
    if not 0 <= temperature < math.inf:
        raise ValueError(f"{section}.temperature is {temperature!r}; expected a number of 0 or more")
    if not 0 < top_p <= 1:
        raise ValueError(f"{section}.top_p is {top_p!r}; expected above 0 and at most 1 (1 keeps every token)")


def _check_algorithm(stage: RlStage) -> None:
    """Refuses options of `grpo` that PPO or RAFT would not heed."""
    if stage.ppo and stage.raft:
        raise ValueError("config.ppo and config.raft are both given; a stage learns by one algorithm: leave one out")
    if stage.ppo:
        _one_of("grpo.advantage_scale under PPO", stage.grpo.advantage_scale, ("batch", "none"))
        _one_of("grpo.aggregation under PPO", stage.grpo.aggregation, ("sum_then_normalize",))
        _one_of("grpo.importance under PPO", stage.grpo.importance, ("token",))
    if stage.raft and stage.grpo.kl_coef:
        raise ValueError(f"grpo.kl_coef is {stage.grpo.kl_coef}; RAFT has no reference to stay near: set it to 0")


def _check_stage(stage: TrainedStage) -> None:
    _at_least(0, "config", stage, "seed")
    _at_least(1, "config", stage, "steps")


def _check_dataset_stage(stage: DatasetStage) -> None:
    _at_least(0, "config", stage, "seed", "limit")
    _at_least(1, "config", stage, "shards")
    if stage.rollout.longer:
        raise ValueError("rollout.longer has no use where a dataset is made, which has no steps: leave it out")


def stage_config(config: Mapping | ConfigDict) -> AnyStage:
    """The frozen sections of one stage's config.

    Args:
      config: a stage's ConfigDict, or the dict read from a workdir's `config.json`.

    Raises:
      ValueError: a key is missing, unknown or of the wrong type; names the key, the value and the remedy.
    """
    tree = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    if "stage" not in tree:
        raise ValueError("config.stage is missing; expected one of " + ", ".join(map(repr, STAGES)))
    _one_of("config.stage", tree["stage"], tuple(STAGES))
    return _build(STAGES[tree["stage"]], tree, "config")


def checkpoint_config(tree: Mapping) -> AnyStage | ConvertedStage:
    """As `stage_config`, of the `config.json` of any checkpoint."""
    return _build(ConvertedStage, tree, "config") if tree.get("stage") == CONVERTED else stage_config(tree)


def to_dict(section: Any) -> dict:
    """The plain-dict form of a frozen section, as `config.json` stores it."""
    return dataclasses.asdict(section)


def _build(kind: type, tree: Any, path: str) -> Any:
    """`tree` as a dataclass `kind`, every key present, known and of its annotated type."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{path} is {tree!r}; expected a section with keys {_keys(kind)}")
    hints = typing.get_type_hints(kind)
    for key in tree:
        if key not in hints:
            near = difflib.get_close_matches(str(key), list(hints), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {_keys(kind)}"
            raise ValueError(f"{path}.{key} is not a key of this section; {hint}")
    required = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    missing = [key for key in required if key not in tree]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; every key must be given (no hidden defaults)")
    return kind(**{key: _value(hint, tree[key], f"{path}.{key}") for key, hint in hints.items() if key in tree})


def _value(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{path} is {value!r}; expected a section of named entries")
        inner = typing.get_args(hint)[1]
        return {str(k): value[k] if inner is Any else _value(inner, value[k], f"{path}.{k}") for k in value}
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{path} is {value!r}; expected a list")
        inner = typing.get_args(hint)[0]
        return [_value(inner, v, f"{path}[{i}]") for i, v in enumerate(value)]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, python_types.UnionType) and len(typing.get_args(hint)) == 2:  # a section, or None
        return None if value is None else _value(typing.get_args(hint)[0], value, path)
    if isinstance(hint, python_types.UnionType) or not isinstance(hint, type):
        raise TypeError(f"{path}: unsupported annotation {hint!r}")
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{path} is {value!r} ({type(value).__name__}); expected {hint.__name__}")
    return value


def _keys(kind: type) -> str:
    return ", ".join(f.name for f in dataclasses.fields(kind))
