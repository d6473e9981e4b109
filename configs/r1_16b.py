"""R1's two kinds of update for Moonlight-16B-A3B on sixteen chips: supervised fine-tuning on long thoughts, then GRPO.

command:   python -m r1jax.main --config=configs/r1_16b.py --workdir=runs/r1_16b
           (on several slices so many: configs/r1_16b.py:2)
needs:     runs/imported/moonlight_16b_a3b, by r1jax.convert; data/thoughts.jsonl, questions with completions
hardware:  v5p:2x2x4 or v6e:4x4; compiled for both (docs/aot.md), and never run
"""

from ml_collections import ConfigDict

from configs import meshes, r1, r1_1_5b
from configs.models import moonlight_16b_a3b

CHIPS = 16  # of a slice


def get_config(slices: str = "1") -> ConfigDict:
    config = r1_1_5b.get_config(slices)
    with config.unlocked():
        for stage in config.stages.values():
            stage.policy = moonlight_16b_a3b.get_config()
            rows = CHIPS * int(slices)
            stage.batch.update(rows=2 * rows, micro_rows=rows, logit_chunk=2048 * rows)
            stage.optimizer.precision = dict(moments="bfloat16", master=True)
            stage.router.update(bias_rate=1e-3, balance_coef=1e-4)
            stage.mesh = meshes.expert_slice(expert=2, slices=int(slices))
        sft, rl = config.stages.sft, config.stages.rl
        sft.init_from = "runs/imported/moonlight_16b_a3b"
        sft.tokenizer.vocab_size = sft.policy.vocab_size
        rl.rollout.prompts = 2 * rows
        rl.grpo.update(minibatches=r1.UPDATES // 4)
    return config.lock()
