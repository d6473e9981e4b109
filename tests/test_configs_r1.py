"""configs/r1.py against the numbers of the paper (arXiv 2501.12948, v1 and v2 with appendices), written out here."""

import pytest

from configs import benchmarks, r1
from r1jax import config as sections
from r1jax.models.policy import mtp_parameter_count, parameter_count
from r1jax.pipeline import pipeline_stages


@pytest.fixture(scope="module")
def stages():
    return pipeline_stages(r1.get_config())


def test_the_pipeline_has_every_stage_of_the_recipe(stages):
    assert list(stages) == [
        "zero", "cold_data", "cold_start", "reasoning", "rejection", "sft2", "helpful", "harmless", "all", "general",
        "distilled",
    ]  # fmt: skip
    froms = {name: getattr(stage, "init_from", None) for name, stage in stages.items()}
    assert froms["zero"] == froms["cold_start"] == froms["sft2"] == r1.BASE  # both SFTs start from V3-Base
    assert (froms["reasoning"], froms["rejection"]) == ("cold_start", "reasoning")
    assert (froms["all"], froms["general"]) == ("sft2", "all")
    assert stages["cold_data"].ways["zero"].init_from == "zero"
    data = {name: stages[name].data.sources["samples"].name for name in ("cold_start", "sft2", "distilled")}
    assert data == {"cold_start": "samples:cold_data", "sft2": "samples:rejection", "distilled": "samples:rejection"}
    policy = stages["general"].policy
    total, active = parameter_count(policy)
    assert round((total - mtp_parameter_count(policy)[0]) / 1e9, 2) == 671.03 and round(active / 1e9, 2) == 37.55


@pytest.mark.parametrize("name", ["zero", "reasoning", "all", "general"])
def test_reinforcement_learning(stages, name):
    stage = stages[name]
    assert stage.optimizer.lr == 3e-6 and stage.grpo.kl_coef == 0.001 and stage.rollout.samples == 16
    assert stage.rollout.prompts * stage.rollout.samples == 8192 and stage.grpo.minibatches == 16
    assert stage.rollout.prompts // stage.grpo.minibatches == 32 and stage.grpo.epochs == 1
    assert stage.grpo.reference_refresh * stage.grpo.minibatches == 400
    assert stage.rollout.temperature == (0.7 if name in ("all", "general") else 1.0)
    assert stage.grpo.clip_high == stage.grpo.clip_low == 10.0
    assert (stage.grpo.kl_estimator, stage.grpo.importance, stage.grpo.reduction) == ("k3", "sequence", "sequence")
    assert stage.rollout.max_tokens == 32_768
    assert stage.batch.row_length <= stage.policy.context


def test_lengths_and_updates(stages):
    zero = stages["zero"]
    assert zero.steps * 16 == 10_400 and zero.template == "r1_zero"
    (longer,) = zero.rollout.longer
    assert longer.max_tokens == 65_536 and (longer.step - 1) * 16 == pytest.approx(8200, abs=15)
    assert zero.rewards["format"].weight == zero.rewards["accuracy"].weight == 1.0 and "language" not in zero.rewards
    assert (stages["all"].steps + stages["general"].steps) * 16 == pytest.approx(1700, abs=15)
    assert stages["general"].steps * 16 == 400
    for name in ("reasoning", "all", "general"):
        assert stages[name].rewards["language"].weight == 1.0 and not stages[name].rollout.longer


def test_general_requests_and_preferences_come_last(stages):
    assert not {"helpful", "harmless"} & (stages["all"].rewards.keys() | stages["reasoning"].rewards.keys())
    for name in ("helpful", "harmless"):
        assert stages["general"].rewards[name].tasks == ["general"]
        assert stages["general"].rewards[name].kwargs["checkpoint"] == name
    weights = {kind: spec.weight for kind, spec in stages["general"].data.sources.items()}
    assert weights == {"math": 26, "code": 17, "stem": 22, "logic": 15, "general": 66}  # thousands
    assert stages["all"].data.sources.keys() == weights.keys() - {"general"}


@pytest.mark.parametrize(("name", "rows"), [("cold_start", 128), ("sft2", 128), ("distilled", 64)])
def test_supervised_fine_tuning(stages, name, rows):
    stage = stages[name]
    assert (stage.batch.rows, stage.batch.row_length) == (rows, 32_768)
    assert (stage.optimizer.schedule, stage.optimizer.final_scale) == ("cosine", 0.1)
    if name != "distilled":
        assert stage.optimizer.lr == 5e-5  # to 5e-6
    if name != "cold_start":
        assert stage.steps * rows * 32_768 == pytest.approx(2 * 804_745 * 5355, rel=1e-3)  # two epochs


def test_rejection_sampling(stages):
    stage = stages["rejection"]
    assert stage.selection.filters.keys() == {"mixed_language", "long_paragraphs", "code_blocks"}
    assert stage.selection.held_out_ngram == 10
    assert stage.join.ratio == pytest.approx(177_812 / (395_285 + 211_129 + 10_124 + 10_395))


def test_reward_models(stages):
    for name, examples, length in (("helpful", 66_000, 2 * 8192), ("harmless", 106_000, 8192)):
        stage = stages[name]
        assert (stage.optimizer.lr, stage.batch.examples, stage.batch.row_length) == (6e-6, 256, length)
        assert 0 <= examples - stage.steps * 256 < 256  # one epoch
    assert stages["helpful"].objective == "bradley_terry" and stages["harmless"].objective == "pointwise"


@pytest.mark.parametrize(
    ("student", "lr", "billions"),
    [
        ("qwen_1_5b", 1e-4, 1.8), ("qwen_7b", 8e-5, 7.6), ("qwen_14b", 7e-5, 14.8), ("qwen_32b", 6e-5, 32.8),
        ("llama_8b", 5e-5, 8.0), ("llama_70b", 2e-5, 70.6),
    ],
)  # fmt: skip
def test_students(student, lr, billions):
    stage = sections.stage_config(r1.get_config(student).stages.distilled)
    assert stage.optimizer.lr == lr and student in stage.init_from
    assert parameter_count(stage.policy)[0] / 1e9 == pytest.approx(billions, abs=0.06)


def test_an_unknown_student_is_refused():
    with pytest.raises(ValueError, match=r"student is 'qwen_8b'; expected one of qwen_1_5b, "):
        r1.get_config("qwen_8b")


def test_benchmarks(stages):
    assert benchmarks.SAMPLES == {"aime24": 64, "gpqa_diamond": 64, "math500": 16, "livecodebench": 8}
    for name in ("zero", "general", "distilled"):
        evaluation = stages[name].evaluation
        assert (evaluation.temperature, evaluation.top_p, evaluation.max_tokens) == (0.6, 0.95, 32_768)
        assert evaluation.samples == 64 == benchmarks.MAJORITY and evaluation.limit == 0
    with pytest.raises(ValueError, match=r"aime24, math500 have \[16, 64\] samples"):
        benchmarks.evaluation("aime24", "math500", every=0, batch=1)


def test_precision_is_that_of_the_base_pretraining(stages):
    """arXiv 2412.19437, section 3.3.3: moments in bfloat16, master copies in float32. Students are float32."""
    for name, stage in stages.items():
        if not hasattr(stage, "optimizer"):
            continue
        if name == "distilled":
            assert stage.optimizer.precision is None and stage.policy.param_dtype == "float32"
        else:
            assert stage.policy.param_dtype == "bfloat16"
            assert (stage.optimizer.precision.moments, stage.optimizer.precision.master) == ("bfloat16", True)
