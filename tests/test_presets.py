"""Every preset is a policy, and has the published number of parameters, counted from shapes alone."""

import importlib
from pathlib import Path

import pytest

from r1jax.config import PolicyConfig
from r1jax.models.policy import mtp_parameter_count, parameter_count

FOLDER = Path(__file__).resolve().parent.parent / "configs" / "models"
PRESETS = sorted(path.stem for path in FOLDER.glob("*.py") if "def get_config" in path.read_text("utf-8"))

# As transformers counts them, built without memory from the published `config.json`; embedding and head included,
# counted once where tied, without multi-token prediction. Model cards round: 671B, 15.7B, 0.49B, 1.54B, ...
PUBLISHED = {
    "deepseek_v3": 671_026_404_352,
    "deepseek_16b": 15_706_484_224,
    "moonlight_16b_a3b": 15_960_108_544,
    "r1_distill_qwen_1_5b": 1_777_088_000,
    "r1_distill_qwen_7b": 7_615_616_512,
    "r1_distill_qwen_14b": 14_770_033_664,
    "r1_distill_qwen_32b": 32_763_876_352,
    "r1_distill_llama_8b": 8_030_261_248,
    "r1_distill_llama_70b": 70_553_706_496,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen2_5_3b": 3_085_938_688,
    "qwen2_5_7b": 7_615_616_512,
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
}
OURS = ("tiny", "small")


def preset(name: str) -> PolicyConfig:
    return PolicyConfig(**importlib.import_module(f"configs.models.{name}").get_config().to_dict())


def test_every_preset_is_counted_here():
    assert sorted([*PUBLISHED, *OURS]) == PRESETS


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    config = preset(name)
    assert parameter_count(config)[0] - mtp_parameter_count(config)[0] == PUBLISHED[name]


def test_the_active_and_additional_parameters_of_the_mixtures():
    """V3's report says 37B active, its weights' README 11.5B for multi-token prediction; the others without embeddings:
    V2-Lite 2.4B of 15.7B, Moonlight's paper 2.24B of 15.29B."""
    v3, lite, moonlight = (preset(name) for name in ("deepseek_v3", "deepseek_16b", "moonlight_16b_a3b"))
    assert parameter_count(v3)[1] == pytest.approx(37e9, rel=0.02)
    assert mtp_parameter_count(v3)[0] == pytest.approx(11.5e9, rel=0.01)
    assert parameter_count(lite)[1] - lite.vocab_size * lite.width == pytest.approx(2.4e9, rel=0.03)
    total, active = (n - 2 * moonlight.vocab_size * moonlight.width for n in parameter_count(moonlight))
    assert (round(total / 1e9, 2), round(active / 1e9, 2)) == (15.29, 2.24)


def test_small_has_about_a_hundred_million():
    assert parameter_count(preset("small"))[0] == pytest.approx(100e6, rel=0.05)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_fresh_each_time(name):
    """A change to one run's config must not reach the next one's."""
    module = importlib.import_module(f"configs.models.{name}")
    first = module.get_config()
    first.layers = 1
    assert module.get_config().layers != 1
