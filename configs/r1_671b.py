"""R1's two kinds of update at full size, DeepSeek-V3's 671B: supervised fine-tuning on long thoughts, then GRPO.

command:   python -m r1jax.main --config=configs/r1_671b.py --workdir=runs/r1_671b
needs:     runs/imported/deepseek_v3_base, by r1jax.convert; data/thoughts.jsonl, questions with completions, and
           data/{math,logic}.jsonl, problems (task records, see docs/design.md)
hardware:  v5p:8x8x16, 1,024 chips; compiled for it (docs/aot.md), and never run

The whole recipe is `r1.py`. A step here is 512 sequences of 32,768 tokens, prompt and completion: SFT of as many rows,
RL of 16 completions to each of 32 prompts and one update. Each update takes two micro-batches of 256 rows.

Training: a row's tokens lie on 4 chips, experts on 16. Sampling: an expert on 4 chips, and no parameter moves.
"""

from ml_collections import ConfigDict

from configs import meshes, r1

LENGTH = 32_768  # of a row: a prompt and a completion
PROMPT = 1024
SEQUENCES, SAMPLES = 512, 16


def get_config() -> ConfigDict:
    sft = r1.sft(r1.BASE, "", r1.SAMPLES, rows=SEQUENCES, lr=5e-5)
    sft.data.sources = {"thoughts": {"name": "jsonl:data/thoughts.jsonl", "weight": 1.0, "kwargs": {}}}
    rl = r1.rl("sft", "r1", 1700 * r1.UPDATES, {"accuracy": r1.rules("last_line")["accuracy"]} | r1.language())
    rl.data.sources = r1.prompts(math=26.0, logic=15.0)
    rl.rollout.update(prompts=SEQUENCES // SAMPLES, samples=SAMPLES, max_tokens=LENGTH - PROMPT)
    rl.rollout.mesh = meshes.decoding(tensor=4)
    rl.grpo.update(minibatches=1, reference_refresh=400)
    for stage in (sft, rl):
        stage.batch.update(row_length=LENGTH, rows=SEQUENCES, micro_rows=SEQUENCES // 2, logit_chunk=2048 * 1024)
        stage.optimizer.precision = dict(moments="float32", master=True)
        stage.mesh = meshes.pod(expert=16, context=4)
    return ConfigDict(dict(stage="pipeline", seed=0, order=("sft", "rl"), stages=dict(sft=sft, rl=rl))).lock()
