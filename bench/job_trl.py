"""TRL's side of the job, in an environment with torch, transformers and trl. One JSON line a step on stdout.

    PYTHON bench/job_trl.py check --folder runs/job
    PYTHON bench/job_trl.py run --folder runs/job --seed 0

`check` holds the exported policy against r1jax on one batch: its tokens, its log-probabilities, the rewards, and the
loss with the norm of its gradient as `GRPOTrainer` computes them. `run` is `GRPOTrainer.train` with the settings in
which it was fastest in float32: micro-batches of 8, no gradient checkpointing, SDPA, a dynamic cache.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import PreTrainedTokenizerFast, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from bench import job_setting as job  # noqa: E402

MICRO = 8  # sequences of a forward-backward pass


class Timed(GRPOTrainer):
    """Notes what a step took and gave, in `figures`."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.figures: dict[str, float] = {}
        super().__init__(*args, **kwargs)

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        out = super()._generate(*args, **kwargs)
        self.figures["rollout_s"] = time.perf_counter() - began
        lengths = [len(ids) for ids in out[1]]
        self.figures.update(length=float(np.mean(lengths)), longest=float(max(lengths)))
        return out

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        rewards = super()._calculate_rewards(*args, **kwargs)
        self.figures["reward"] = float(rewards.mean())
        return rewards


class Marks(TrainerCallback):
    """A line at the end of each step."""

    def __init__(self, seed: int, figures: dict[str, float]):
        self._seed, self._figures = seed, figures

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        _say(
            self._seed,
            measure="step",
            step=state.global_step - 1,
            seconds=now - self._began,
            cpu_s=cpu - self._cpu,
            **self._figures,
        )
        self._began, self._cpu = time.perf_counter(), time.process_time()


def trainer(folder: str, seed: int, steps: int, out: str) -> Timed:
    rows = job.prompts(folder)[: steps * job.PROMPTS]
    config = GRPOConfig(
        output_dir=out, use_cpu=True, bf16=False, model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
        gradient_checkpointing=False, per_device_train_batch_size=MICRO,
        gradient_accumulation_steps=job.PROMPTS * job.SAMPLES // MICRO, num_generations=job.SAMPLES,
        max_completion_length=job.MAX_TOKENS, max_steps=steps, beta=job.KL_COEF, epsilon=job.CLIP,
        temperature=job.TEMPERATURE, top_k=0, top_p=1.0, loss_type="grpo", scale_rewards="none", num_iterations=1,
        learning_rate=job.LEARNING_RATE, lr_scheduler_type="constant", warmup_steps=0, adam_beta1=job.BETA1,
        adam_beta2=job.BETA2, adam_epsilon=job.EPS, weight_decay=job.WEIGHT_DECAY, max_grad_norm=job.CLIP_NORM,
        mask_truncated_completions=False, use_bias_correction_kl=False, shuffle_dataset=False, report_to="none",
        save_strategy="no", logging_steps=10**6, disable_tqdm=True, seed=seed,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": [r["prompt"] for r in rows], "answer": [r["answer"] for r in rows]})
    model = str(Path(folder) / job.POLICY_FOLDER)
    # AutoTokenizer would take Qwen2's own class for whatever is a qwen2, and not heed tokenizer.json.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    one = Timed(model=model, args=config, reward_funcs=job.reward, train_dataset=data, processing_class=tokenizer)
    one.add_callback(Marks(seed, one.figures))
    return one


def run(args: argparse.Namespace) -> None:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        one = trainer(args.folder, args.seed, args.steps, out)
        started = time.perf_counter() - began
        one.train()
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    versions = " ".join(f"{name}={importlib.metadata.version(name)}" for name in ("torch", "transformers", "trl"))
    whole = time.perf_counter() - began
    _say(args.seed, measure="whole", start_s=started, whole_s=whole, rss_mib=rss, versions=versions)


def check(args: argparse.Namespace) -> None:
    given = np.load(Path(args.folder) / job.BATCH_FILE)
    rows = job.of_step(job.prompts(args.folder), 0)
    with tempfile.TemporaryDirectory() as out:
        one = trainer(args.folder, 0, 1, out)
        tokenizer = one.processing_class
        ids = [tokenizer(r["prompt"])["input_ids"] for r in rows]
        inputs = batch(given, [x for x in ids for _ in range(job.SAMPLES)], tokenizer.pad_token_id)
        mask = inputs["completion_mask"].numpy().astype(bool)
        whole = [torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], 1) for x in ("ids", "mask")]
        with torch.no_grad():
            logp, *_ = one._get_per_token_logps_and_entropies(one.model, *whole, mask.shape[1])
        one.model.train()
        one.current_gradient_accumulation_steps = 1
        loss = one._compute_loss(one.model, inputs)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(one.model.parameters(), float("inf"))
    completions = [given["completion_BL"][b, :n] for b, n in enumerate(given["length_B"])]
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    rewards = job.reward(texts, [r["answer"] for r in rows for _ in range(job.SAMPLES)])
    found = {
        "same_prompt_ids": ids == [r["ids"] for r in rows],
        "logp_difference": float(np.abs(logp.numpy() - given["logp_BL"])[mask].max()),
        "reward_difference": float(np.abs(np.array(rewards) - given["rewards_B"]).max()),
        "loss": [float(loss.detach()), float(given["loss"])],
        "grad_norm": [float(norm), float(given["grad_norm"])],
        "kl": [float(one._metrics["train"]["kl"][-1]), float(given["policy/kl"])],
        "clip_fraction": [
            float(one._metrics["train"]["clip_ratio/region_mean"][-1]), float(given["policy/clip_fraction"])
        ],
        "tokens": int(mask.sum()),
    }  # fmt: skip
    _say(0, measure="check", **found)


def batch(given: Any, prompt_ids: list[list[int]], pad_id: int) -> dict[str, torch.Tensor]:
    """r1jax's completions as `GRPOTrainer` has its own: prompts padded on the left."""
    longest = max(map(len, prompt_ids))
    prompt = np.full((len(prompt_ids), longest), pad_id)
    prompt_mask = np.zeros_like(prompt)
    for b, ids in enumerate(prompt_ids):
        prompt[b, longest - len(ids) :], prompt_mask[b, longest - len(ids) :] = ids, 1
    mask = np.arange(given["completion_BL"].shape[1])[None] < given["length_B"][:, None]
    arrays = {
        "prompt_ids": prompt, "prompt_mask": prompt_mask,
        "completion_ids": np.where(mask, given["completion_BL"], pad_id).astype(np.int64),
        "completion_mask": mask.astype(np.int64), "advantages": given["advantages_B"],
        "old_per_token_logps": given["old_BL"], "ref_per_token_logps": given["ref_BL"],
    }  # fmt: skip
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _say(seed: int, **figures: Any) -> None:
    figures = {key: float(f"{x:.5g}") if isinstance(x, float) else x for key, x in figures.items()}
    print(json.dumps({"peer": "trl", "seed": seed} | figures), file=sys.__stdout__, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["check", "run"])
    parser.add_argument("--folder", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=job.STEPS)
    args = parser.parse_args()
    sys.stdout = sys.stderr
    {"check": check, "run": run}[args.what](args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
