"""The stages' whole configs: which sections each has, and what must fit together."""

from __future__ import annotations

import dataclasses

from r1jax.config.checks import at_least, one_of
from r1jax.config.datasets import JoinConfig, RewriterConfig, SelectionConfig, WayConfig
from r1jax.config.policy import PolicyConfig
from r1jax.config.sections import (
    BatchConfig,
    CheckpointConfig,
    ComparisonBatchConfig,
    DataConfig,
    DynamicSamplingConfig,
    EvaluationConfig,
    GrpoConfig,
    HeldOutConfig,
    LogConfig,
    MeshConfig,
    OffloadConfig,
    OptimizerConfig,
    PpoConfig,
    RaftConfig,
    RewardsConfig,
    RewardSpec,
    RolloutConfig,
    RouterConfig,
    SourceSpec,
    TeacherConfig,
    TokenizerConfig,
)


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
        at_least(0, "config", self, "mtp_coef")
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
    offload: OffloadConfig | None = None
    dynamic_sampling: DynamicSamplingConfig | None = None

    def __post_init__(self):
        _check_stage(self)
        _check_algorithm(self)
        if self.ppo:
            _check_master("ppo.optimizer", self.ppo.optimizer, self.policy)
        if self.offload and self.offload.reference and not self.grpo.kl_coef:
            raise ValueError(
                "offload.reference is True and grpo.kl_coef 0; without a KL there is no reference: set the first to "
                "False, or raise the second"
            )
        if self.rollout.prompts % self.grpo.minibatches:
            raise ValueError(
                f"grpo.minibatches is {self.grpo.minibatches}; expected a divisor of rollout.prompts "
                f"({self.rollout.prompts}), as a group is never split"
            )
        if self.dynamic_sampling and self.dynamic_sampling.drawn <= self.rollout.prompts:
            raise ValueError(
                f"dynamic_sampling.drawn is {self.dynamic_sampling.drawn}; expected more than rollout.prompts "
                f"({self.rollout.prompts}), or there is nothing to choose from: raise it, or leave the section out"
            )

    def drawn(self) -> int:
        """Prompts sampled a step."""
        return self.dynamic_sampling.drawn if self.dynamic_sampling else self.rollout.prompts


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
        one_of("config.objective", self.objective, ("bradley_terry", "pointwise"))
        if not self.sources:
            raise ValueError("config.sources is empty; expected at least one entry, NAME -> {name, weight, kwargs}")


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


def _check_algorithm(stage: RlStage) -> None:
    """Refuses options of `grpo` that PPO or RAFT would not heed."""
    if stage.ppo and stage.raft:
        raise ValueError("config.ppo and config.raft are both given; a stage learns by one algorithm: leave one out")
    if stage.ppo:
        one_of("grpo.advantage_scale under PPO", stage.grpo.advantage_scale, ("batch", "none"))
        one_of("grpo.aggregation under PPO", stage.grpo.aggregation, ("sum_then_normalize",))
        one_of("grpo.importance under PPO", stage.grpo.importance, ("token",))
    if stage.raft and stage.grpo.sampler_cap:
        raise ValueError(f"grpo.sampler_cap is {stage.grpo.sampler_cap}; RAFT has no ratio to correct: set it to 0")
    if stage.raft and stage.grpo.kl_coef:
        raise ValueError(f"grpo.kl_coef is {stage.grpo.kl_coef}; RAFT has no reference to stay near: set it to 0")


def _check_stage(stage: TrainedStage) -> None:
    at_least(0, "config", stage, "seed")
    at_least(1, "config", stage, "steps")
    _check_master("optimizer", stage.optimizer, stage.policy)


def _check_master(name: str, optimizer: OptimizerConfig, policy: PolicyConfig) -> None:
    if optimizer.precision and optimizer.precision.master and policy.param_dtype == "float32":
        raise ValueError(
            f"{name}.precision.master is True and policy.param_dtype 'float32'; the parameters are exact already: set "
            "the first to False, or the second to 'bfloat16'"
        )


def _check_dataset_stage(stage: DatasetStage) -> None:
    at_least(0, "config", stage, "seed", "limit")
    at_least(1, "config", stage, "shards")
    if stage.rollout.longer:
        raise ValueError("rollout.longer has no use where a dataset is made, which has no steps: leave it out")
    if stage.rollout.mesh:
        raise ValueError("rollout.mesh has no use where a dataset is made, which trains nothing: give mesh alone")
    one_of("rollout.ahead where a dataset is made", stage.rollout.ahead, (0,))
    one_of("rollout.precision where a dataset is made", stage.rollout.precision, ("policy",))


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
