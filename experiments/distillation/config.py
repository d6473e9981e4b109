"""A small student: taught by R1-Zero's samples, or by its own reward?

command:   python -m r1jax.main --config=experiments/distillation/config.py \\
               --workdir=runs/experiments/distillation
hardware:  2 CPU cores
time:      5.6 minutes of processor time, without the base and what other experiments had made, 2026-11-21
expected:  pass@1 samples 84.2%, with the teacher's distribution 77.2%, RL of its own 72.8%; the teacher 73.5%

The teacher is a standard run of RL; its cost is not counted in the student's.
"""

from ml_collections import ConfigDict

from configs import distill_tiny
from experiments import standard


def student() -> ConfigDict:
    return standard.evaluation(distill_tiny.student())


def samples() -> ConfigDict:
    config = distill_tiny.samples("zero")
    config.limit = 1000
    return config


def distilled(alpha: float) -> ConfigDict:
    config = standard.evaluation(distill_tiny.distilled("zero"))
    config.steps = 150
    config.teacher = dict(folder="zero", alpha=alpha) if alpha else None
    return config


def alone() -> ConfigDict:
    config = standard.zero("student")
    config.policy = distill_tiny.policy()
    config.router.bias_rate = 0.0
    return config


def get_config() -> ConfigDict:
    return standard.sweep(
        question="Does a small dense student learn more from a teacher's right answers than from RL of its own?",
        hypothesis=(
            "Distillation wins clearly, and in less time; the teacher's whole distribution beside its text adds little."
        ),
        arms={"rl": {}, "samples": distilled(0.0), "distribution": distilled(0.5)},
        stage=alone(),
        first={"zero": standard.zero(), "student": student(), "samples": samples()},
    )
