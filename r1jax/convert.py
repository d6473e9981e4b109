"""Brings Hugging Face weights in, and takes trained ones out.

python -m r1jax.convert --from_hf=DIR --to=DIR
python -m r1jax.convert --from=DIR --to_hf=DIR
"""

from __future__ import annotations

import resource
from typing import Any

from absl import flags

from r1jax import command
from r1jax.stages.conversion import export_hf, import_hf

_FROM_HF = flags.DEFINE_string("from_hf", None, "Folder with config.json, tokenizer.json and safetensors.")
_TO = flags.DEFINE_string("to", None, "Checkpoint to make of it; a folder that is not there yet.")
_FROM = flags.DEFINE_string("from", None, "A stage's workdir or a converted checkpoint.")
_TO_HF = flags.DEFINE_string("to_hf", None, "Hugging Face folder to make of it; one that is not there yet.")
_PARAM_DTYPE = flags.DEFINE_enum(
    "param_dtype", None, ["float32", "bfloat16"], "Of the parameters; float32 coming in, unchanged going out."
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Coming in: compute; a stage may choose anew.")
_TEMPLATE = flags.DEFINE_string("template", "", "Coming in: chat | plain | r1_zero; the tokenizer's own if not given.")
_SHARD_GB = flags.DEFINE_float("shard_gb", 5.0, "Going out: of a file, at most.", lower_bound=0)

KIB, GB = 1024, 10**9


def main(_: list[str]) -> dict[str, Any]:
    from_hf, to, from_, to_hf = _FROM_HF.value, _TO.value, _FROM.value, _TO_HF.value
    if from_hf and to and not (from_ or to_hf):
        result = import_hf(
            from_hf, to,
            dtype=_DTYPE.value, param_dtype=_PARAM_DTYPE.value or "float32", template=_TEMPLATE.value,
        )  # fmt: skip
    elif from_ and to_hf and not (from_hf or to):
        shard = int(_SHARD_GB.value * GB)
        result = export_hf(from_, to_hf, param_dtype=_PARAM_DTYPE.value or "", shard_bytes=shard)
    else:
        raise ValueError("expected --from_hf with --to, or --from with --to_hf")
    return result | {"peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB}


if __name__ == "__main__":
    command.main(main)
