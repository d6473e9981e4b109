r"""The benchmarks as the paper evaluates on them (DeepSeek-R1, appendix on evaluation).

Completions of up to 32,768 tokens at temperature 0.6 and top-p 0.95; K of them a problem, pass@1 being their mean, and
64 for the majority's answer. A policy of the field is asked in its chat template with `BOXED` or `CHOICE` after the
question, and graded by `extraction` "boxed"; R1-Zero's and R1's own templates have a place for the answer, and need no
more than the question. So a checkpoint is measured by

    python -m r1jax.evaluate --checkpoint=DIR --tasks=aime24 --samples=64 --temperature=0.6 --top_p=0.95 \
        --max_tokens=32768 --curves [--source_dir=DIR]

Where the files come from, and how they are laid out under a `source_dir`, stands in `r1jax/data/builders.py`.
"""

from ml_collections import ConfigDict

TEMPERATURE, TOP_P, MAX_TOKENS = 0.6, 0.95, 32_768
SAMPLES = {"aime24": 64, "gpqa_diamond": 64, "math500": 16, "livecodebench": 8}  # K of the paper; it has no GSM8K
MAJORITY = 64  # samples that vote: the paper's cons@64

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
CHOICE = "Please reason step by step, and put the letter of your choice, and nothing else, within \\boxed{}."


def evaluation(*names: str, every: int, batch: int) -> ConfigDict:
    """A stage's `evaluation` on benchmarks of one K.

    Raises:
      ValueError: the benchmarks differ in K; a stage draws as many samples of each.
    """
    counts = {SAMPLES[name] for name in names}
    if len(counts) != 1:
        raise ValueError(f"benchmarks {', '.join(names)} have {sorted(counts)} samples a problem; give those of one K")
    return ConfigDict(
        dict(
            tasks={name: {"name": f"{name}:test", "kwargs": {}} for name in names},
            samples=counts.pop(),
            limit=0,
            every=every,
            every_samples=4,
            every_limit=0,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            max_tokens=MAX_TOKENS,
            batch=batch,
        )
    )
