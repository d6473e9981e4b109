"""Checkpoints in and out of Hugging Face folders: `import_hf`, `export_hf`.

What is written stands in a temporary folder beside its place until it is whole, and is then renamed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax.config import (
    CONVERTED,
    ConvertedStage,
    DataConfig,
    EvaluationConfig,
    MeshConfig,
    PolicyConfig,
    RewardsConfig,
    SourceSpec,
    TaskSpec,
)
from r1jax.data import templates
from r1jax.data.hf_export import tokenizer_files
from r1jax.data.hf_vocabulary import HfVocabulary
from r1jax.data.tokenizer import Tokenizer
from r1jax.mesh import make_mesh, state_shardings
from r1jax.models.hf_config import hf_config, policy_config
from r1jax.models.hf_weights import has_prediction, read_variables, tensors
from r1jax.models.policy import abstract_variables, parameter_count
from r1jax.models.tensor_files import TensorFiles, write_sharded
from r1jax.stages.inference import load_params, read_writer
from r1jax.stages.workdir import begin
from r1jax.training.checkpoint import Checkpoints

CONFIG = "config.json"
STEP = 0  # of an imported checkpoint: no update has been made
MAX_TOKENS = 1024  # of a completion, in an imported checkpoint's evaluation


def import_hf(source: str, target: str, *, dtype: str, param_dtype: str, template: str) -> dict[str, Any]:
    """Makes a checkpoint of a Hugging Face folder.

    Args:
      source: folder with config.json, tokenizer.json and safetensors.
      target: a folder that is not there yet.
      dtype: compute; a stage that starts from it may choose another.
      param_dtype: of the parameters.
      template: how questions are prompted; "" is "chat" where the tokenizer brings a template, else "plain".

    Returns:
      {"checkpoint", "parameters", "bytes"}.

    Raises:
      ValueError: something is missing, unknown or damaged; names it. Nothing is left at `target`.
    """
    hf = _read_config(source)
    policy = policy_config(hf, dtype=dtype, param_dtype=param_dtype)
    tokenizer = Tokenizer(HfVocabulary.load(source))
    template = template or (templates.CHAT if tokenizer.chat_template else "plain")
    templates.render(template, "", tokenizer)
    if tokenizer.vocab_size > policy.vocab_size:
        raise ValueError(f"{source}: the tokenizer has {tokenizer.vocab_size} ids, the model {policy.vocab_size}")
    with _written(target) as folder, TensorFiles(source) as files:
        if policy.mtp_layers and not has_prediction(policy, files):
            policy = policy_config(hf | {"num_nextn_predict_layers": 0}, dtype=dtype, param_dtype=param_dtype)
        shardings = state_shardings(_mesh(policy), abstract_variables(policy))
        variables = read_variables(policy, files, shardings)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
        checkpoints = Checkpoints(folder, keep=1, sparing=True)
        try:
            checkpoints.save(STEP, {"params": variables, "step": jnp.zeros((), jnp.int32)}, {})
            checkpoints.wait()
        finally:
            checkpoints.close()
        begin(str(folder), _converted(policy, template), tokenizer)
    return {"checkpoint": target, "parameters": parameter_count(policy)[0], "bytes": size}


def export_hf(source: str, target: str, *, param_dtype: str, shard_bytes: int) -> dict[str, Any]:
    """Writes a checkpoint as a Hugging Face folder.

    Args:
      source: a stage's workdir or a converted checkpoint.
      target: a folder that is not there yet.
      param_dtype: of the tensors; "" is that of the parameters.
      shard_bytes: of a file, at most.

    Returns:
      {"folder", "model_type", "parameters", "files"}.
    """
    stage = read_writer(source)
    policy = stage.policy
    out_dtype = param_dtype or policy.param_dtype
    hf = hf_config(policy) | {"torch_dtype": out_dtype}
    tokenizer = Tokenizer.load(source)
    variables = load_params(source, policy, _mesh(policy))
    with _written(target) as folder:
        ids = {
            "bos_token_id": tokenizer.vocabulary.bos_id,
            "eos_token_id": tokenizer.eos_id,
            "pad_token_id": tokenizer.pad_id,
        }
        names = write_sharded(folder, tensors(policy, variables, np.dtype(jnp.dtype(out_dtype))), shard_bytes)
        for name, content in tokenizer_files(tokenizer, stage.template, policy.context).items():
            (folder / name).write_bytes(content)
        (folder / CONFIG).write_text(json.dumps(hf | ids, indent=2) + "\n", encoding="utf-8")
    parameters = parameter_count(policy)[0]
    return {"folder": target, "model_type": hf["model_type"], "parameters": parameters, "files": len(names)}


def _read_config(source: str) -> dict[str, Any]:
    path = Path(source) / CONFIG
    try:
        hf = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); expected a Hugging Face checkpoint") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again") from error
    if not isinstance(hf, dict):
        raise ValueError(f"{path} is {type(hf).__name__}; expected an object: copy it again")
    quantised = hf.get("quantization_config") or {}
    if quantised and (quantised.get("quant_method"), quantised.get("weight_block_size")) != ("fp8", [128, 128]):
        raise ValueError(f"{path}: quantization_config is {quantised}; expected fp8 with weight_block_size [128, 128]")
    return hf


def _mesh(policy: PolicyConfig) -> Mesh:
    """As many devices as divide the width, each with a part of every array."""
    ways = math.gcd(policy.width, jax.local_device_count())
    return make_mesh(MeshConfig(data=1, fsdp=ways, expert=1, tensor=1, context=1), jax.local_devices()[:ways])


@contextlib.contextmanager
def _written(target: str) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends well, and is removed when it does not."""
    path = Path(target)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{target} is there already; give a folder that is new or empty")
    temporary = path.absolute().with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _converted(policy: PolicyConfig, template: str) -> ConvertedStage:
    tokens = min(MAX_TOKENS, policy.context // 2)
    return ConvertedStage(
        stage=CONVERTED,
        template=template,
        policy=policy,
        data=DataConfig({"gsm8k": SourceSpec("gsm8k", 1.0, {})}, data_dir="~/.cache/r1jax/data", source_dir=""),
        evaluation=EvaluationConfig(
            tasks={"gsm8k": TaskSpec("gsm8k:test", {})},
            samples=1, limit=0, every=0, every_samples=1, every_limit=0,
            temperature=0.6, top_p=0.95,  # as DeepSeek-R1 is evaluated (arXiv 2501.12948, section 3)
            max_tokens=tokens, batch=16,
        ),
        grading=RewardsConfig(timeout_s=60.0, on_error=0.0, workers=2),
    )  # fmt: skip
