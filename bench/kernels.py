"""What each kernel costs that could do a piece of the policy's work: experts, attention, cross-entropy.

    python bench/kernels.py --dtype float32 > runs/kernels.jsonl
    python bench/kernels.py --topology v5e:2x2 --dtype bfloat16 >> runs/kernels.jsonl

Without `--topology` the choices of `bench/kernel_cases.py` run here, on the same inputs, forward alone and forward
with backward; one JSON line a choice and pass. As in the update, a program does its work several times and sums
what it gives, so that memory is touched for the first time once a program. A choice whose results differ from the first
one's, or which the platform cannot run, has a line that says so. With `--topology` the TPU's compiler says what one of
its chips would need.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from absl import flags  # noqa: E402
from jax.sharding import SingleDeviceSharding  # noqa: E402

from bench import kernel_cases, measuring  # noqa: E402
from bench.kernel_cases import Case, Choice  # noqa: E402
from r1jax import aot  # noqa: E402

TIMES = 2  # that a program does its work
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}  # of the largest number of an array
SHORT = 300  # characters of a message
MIB = 2**20
KERNEL = "xla_tpu_enable_ragged_dot_kernel"  # XLA's own grouped matmul on TPU, off unless asked for


def passes(choice: Choice) -> dict[str, Callable[..., Any]]:
    """Forward alone, and with the gradient of all that has one, of the sum of what it gives."""

    def total(moved: tuple, fixed: tuple) -> jax.Array:
        return jnp.sum(choice(moved, fixed).astype(jnp.float32))

    return {"forward": choice, "forward and backward": jax.value_and_grad(total)}


def several(work: Callable[..., Any], times: int) -> Callable[..., Any]:
    """The sum of what `work` gives of slightly different inputs, so that none of them can be left out."""

    def run(moved: tuple, fixed: tuple) -> Any:
        def add(summed: Any, i: jax.Array) -> tuple[Any, None]:
            shifted = (moved[0] + (i * 1e-20).astype(moved[0].dtype), *moved[1:])
            return jax.tree.map(jnp.add, summed, work(shifted, fixed)), None

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(work, moved, fixed))
        return jax.lax.scan(add, zeros, jnp.arange(times, dtype=jnp.float32))[0]

    return run


def difference(found: Any, expected: Any) -> float:
    """The largest difference of an array's numbers, as a share of its largest number."""

    def one(a: jax.Array, b: jax.Array) -> float:
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        return float(np.abs(a - b).max() / np.abs(b).max())

    return max(map(one, jax.tree.leaves(found), jax.tree.leaves(expected)))


def measured(case: Case, dtype: str, rounds: int) -> list[dict[str, Any]]:
    """A line a choice and pass, each run so many times in a row after a first."""
    lines = []
    for kind in ("forward", "forward and backward"):
        expected = None
        for name, choice in case.choices.items():
            work = passes(choice)[kind]
            try:
                program = jax.jit(several(work, TIMES)).lower(case.moved, case.fixed).compile()
                found = jax.block_until_ready(program(case.moved, case.fixed))
            except Exception as error:  # of another's kernel: what it raises where it cannot run is its own affair
                if expected is None:
                    raise
                lines.append(_line(case, name, kind, dtype, failed=_first_line(error)))
                continue
            expected = found if expected is None else expected
            error = difference(found, expected)
            repeats, _, load = measuring.repeated(functools.partial(_run, program, case), 0, rounds)
            temp = program.memory_analysis().temp_size_in_bytes / MIB
            figures = _figures(repeats, error, dtype) | {"temp_mib": temp, "other_cores": load.other_cores}
            lines.append(_line(case, name, kind, dtype, **figures))
    return lines


def _run(program: Any, case: Case, _: int) -> None:
    jax.block_until_ready(program(case.moved, case.fixed))


def _figures(repeats: list[measuring.Repeat], error: float, dtype: str) -> dict[str, Any]:
    seconds = [r.seconds / TIMES for r in repeats]
    cpu = statistics.median(r.cpu_seconds for r in repeats) / TIMES
    out = dict(
        value=statistics.median(seconds), unit="s", n=len(seconds), span=[min(seconds), max(seconds)], cpu_s=cpu,
        error=error,
    )  # fmt: skip
    if not error <= TOLERANCE[dtype]:
        out["failed"] = f"differs by {error:.1e} of the largest number"
    return out


def estimated(case: Case, dtype: str, topology: str) -> list[dict[str, Any]]:
    """A line a choice and pass: FLOPs, bytes and seconds as the TPU's compiler counts them for one chip.

    It counts what stands in a loop once, so a choice that loops has no figures but its memory.
    """
    device = aot.topology(topology, 1)[0]
    there = functools.partial(_abstract, SingleDeviceSharding(device))
    moved, fixed = jax.tree.map(there, case.moved), jax.tree.map(there, case.fixed)
    choices = [(name, choice, {}) for name, choice in case.choices.items()]
    if "ragged_dot" in case.choices:
        choices.append(("ragged_dot, as a kernel", case.choices["ragged_dot"], {KERNEL: "true"}))
        choices.append(("own, ragged_dot as a kernel", case.choices["own"], {KERNEL: "true"}))
    lines = []
    for name, choice, options in choices:
        for kind, work in passes(choice).items():
            try:
                compiled = jax.jit(work).lower(moved, fixed).compile(compiler_options=options)
            except Exception as error:  # as above
                lines.append(_line(case, name, kind, dtype, platform=device.device_kind, failed=_first_line(error)))
                continue
            figures = {"temp_mib": compiled.memory_analysis().temp_size_in_bytes / MIB, "n": 1}
            cost, loops = compiled.cost_analysis(), "while(" in compiled.as_text()
            if not loops:
                figures |= {"chip_flops": cost["flops"], "chip_bytes": cost["bytes accessed"]}
            if not loops and cost["optimal_seconds"] > 0:
                figures |= {"value": cost["optimal_seconds"], "unit": "s"}
            lines.append(_line(case, name, kind, dtype, platform=device.device_kind, **figures))
    return lines


def _abstract(sharding: SingleDeviceSharding, x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"[:SHORT]


def _line(case: Case, choice: str, kind: str, dtype: str, **more: Any) -> dict[str, Any]:
    rounded = {key: measuring.significant(x) if isinstance(x, float) else x for key, x in more.items()}
    if "span" in rounded:
        rounded["span"] = [measuring.significant(x) for x in rounded["span"]]
    platform = {"platform": jax.devices()[0].device_kind} | rounded
    return {
        "measure": "kernel", "op": case.op, "shape": case.shape, "choice": choice, "pass": kind, "dtype": dtype,
        "flops": case.flops,
    } | platform  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--op", nargs="+", choices=kernel_cases.OPS, default=list(kernel_cases.OPS))
    parser.add_argument("--shape", nargs="+", default=[], help="those alone, such as 'moe-S'")
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--topology", default="", help="of TPUs that are not there, such as v5e:2x2")
    args = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # tokamax would read them
    sys.stdout = sys.stderr
    for op in args.op:
        for name, make in kernel_cases.OPS[op].items():
            if args.shape and name not in args.shape:
                continue
            case = make(args.dtype)
            run = functools.partial(estimated, topology=args.topology) if args.topology else None
            lines = run(case, args.dtype) if run else measured(case, args.dtype, args.rounds)
            for line in lines:
                print(json.dumps(line), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
