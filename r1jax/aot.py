"""Compiles a config's programs for TPUs that are not there, and says what each chip would hold, send and compute.

python -m r1jax.aot --config=configs/r1_671b.py --topology=v5p:8x8x16 --program=rl_step

The compiler is the TPU's own (pip install libtpu). A program that does not fit says by how much and what is largest;
the exit code is then 1.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import config_flags

from r1jax import command, hlo, pipeline
from r1jax.config import MeshConfig, stage_config
from r1jax.mesh import make_mesh
from r1jax.models.policy import parameter_count
from r1jax.stages.programs import PROGRAMS, Program, choose
from r1jax.stages.run import check_rows

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file; any key is set as --config.a.b=v.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "TPUs, such as v5p:8x8x16, v5e:2x4 or v6e:4x4.", required=True)
_SLICES = flags.DEFINE_integer("slices", 1, "So many of that topology, joined by mesh.data.", lower_bound=1)
_PROGRAM = flags.DEFINE_enum("program", None, list(PROGRAMS), "What is compiled.", required=True)
_STAGE = flags.DEFINE_string("stage", "", "Of a pipeline; the first that has such a program if not given.")
flags.mark_flag_as_required("config")

MIB, GIB = 2**20, 2**30
SHOWN = 12  # arrays, and collectives, on the terminal
LARGE = 64 * MIB  # an array worth listing
# A compiler without chips: it asks no metadata server, and may be loaded beside others.
NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "none",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
_UNIT = {"": 1, "K": 2**10, "M": MIB, "G": GIB, "T": 2**40}


class Compiled(NamedTuple):
    """What the compiler has made of a program."""

    memory: dict[str, int]  # bytes of a chip
    text: str  # the program
    assignment: str  # XLA's account of its arrays' places
    seconds: float
    processor_seconds: float  # of all threads: what a busy machine does not change


def main(_: list[str]) -> dict[str, Any]:
    jax.config.update("jax_platforms", "cpu")
    config = _CONFIG.value
    stages = pipeline.pipeline_stages(config) if config.stage == "pipeline" else {config.stage: stage_config(config)}
    stage = choose(stages, _PROGRAM.value, _STAGE.value)
    devices = topology(_TOPOLOGY.value, _SLICES.value)
    program = PROGRAMS[_PROGRAM.value][1](stage, mesh_of(stage, _PROGRAM.value, devices))
    compiled = compile_program(program, hbm_limit(devices))
    report = figures(program, compiled, parameter_count(stage.policy), _SLICES.value)
    result = {"config": stage.stage, "program": _PROGRAM.value, "topology": _TOPOLOGY.value, "slices": _SLICES.value}
    show(result | report)
    if not report["fits"]:
        raise command.Unmet(result | report)
    return result | report


def mesh_of(stage: Any, program: str, devices: list) -> jax.sharding.Mesh:
    """The mesh that the stage runs the program on.

    Raises:
      ValueError: it does not fit the devices, or the rows not the mesh.
    """
    mesh = make_mesh(stage.mesh, devices)
    if program != "rollout":
        check_rows(stage.batch, mesh)
    return mesh


def topology(name: str, slices: int) -> list:
    """The chips of so many slices of a TPU topology, as far as a compiler needs them.

    Raises:
      ValueError: libtpu is not installed, or knows no such topology.
    """
    for key, value in NO_TPU.items():
        os.environ.setdefault(key, value)
    kwargs = {"num_slices": slices} if slices > 1 else {}
    try:
        with _without_flags():
            return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **kwargs).devices)
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; the TPU's compiler is needed: pip install libtpu") from error
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"topology is {name!r}, which the TPU compiler refuses ({str(error).splitlines()[0]}); expected "
            "GENERATION:AxBxC such as v5p:8x8x16, or GENERATION:AxB such as v5e:2x4"
        ) from error


def hbm_limit(devices: list) -> int:
    """Bytes of a chip's memory that a program may have: what the compiler says of one that is far too large."""
    spread = jax.sharding.NamedSharding(make_mesh(MeshConfig(-1, 1, 1, 1, 1), devices), jax.sharding.PartitionSpec())
    endless = jax.ShapeDtypeStruct((2**41,), jnp.int8)
    try:
        with _without_flags():
            jax.jit(lambda x: x + 1, in_shardings=spread).lower(endless).compile()
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"available HBM \(([\d.]+)([KMGT]?)\)", str(error))
        if found:
            return int(float(found[1]) * _UNIT[found[2]])
        raise
    raise RuntimeError("the compiler took an array of two terabytes; it says nothing of a chip's memory")


def compile_program(program: Program, limit: int) -> Compiled:
    """Compiles, and reads back what the compiler has written of the program, whether it fits or not."""
    with tempfile.TemporaryDirectory() as folder, jax.set_mesh(program.mesh), _uncached(), _without_flags():
        lowered = program.lower()
        began, used = time.perf_counter(), time.process_time()
        memory = {"limit": limit}
        try:
            stats = lowered.compile(compiler_options={"xla_dump_to": folder}).memory_analysis()
            memory |= {
                "arguments": stats.argument_size_in_bytes,
                "outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,  # beside what takes arguments' place
                "temporaries": stats.temp_size_in_bytes,
                "code": stats.generated_code_size_in_bytes,
            }
        except jax.errors.JaxRuntimeError as error:
            if "CompileTimeHbmOom" not in str(error):
                raise
        seconds, used = time.perf_counter() - began, time.process_time() - used
        text, assignment = (_dumped(folder, name) for name in ("after_optimizations", "buffer-assignment"))
    if "arguments" not in memory:
        memory |= sizes(assignment)
    memory["total"] = sum(memory[key] for key in ("arguments", "outputs", "temporaries", "code"))
    return Compiled(memory, text, assignment, seconds, used)


@contextlib.contextmanager
def _without_flags() -> Iterator[None]:
    """libtpu reads XLA_FLAGS, too, and ends the process at a flag that only another platform knows."""
    jax.devices("cpu")  # has read those that are its own, then
    kept = os.environ.pop("XLA_FLAGS", None)
    try:
        yield
    finally:
        if kept is not None:
            os.environ["XLA_FLAGS"] = kept


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """What is found in the cache of compiled programs was not written out, nor timed."""
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # it has noted whether it is to be used
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def sizes(assignment: str) -> dict[str, int]:
    """Bytes by kind, of a program that was not finished; what is given back in its arguments' place counts there."""
    total = dict(arguments=0, outputs=0, temporaries=0, code=0)
    for line in re.findall(r"^allocation \d+: (.*)$", assignment, re.MULTILINE):
        if "color" not in line or "color 0" in line:
            kind = "arguments" if "parameter" in line else "outputs" if "live-out" in line else "temporaries"
            total[kind] += int(line.split("size ")[1].split(",")[0])
    return total


def _dumped(folder: str, name: str) -> str:
    """The program's own file of that name; the compiler writes small ones of other programs, too."""
    found = [path for path in Path(folder).iterdir() if path.name.endswith(f"{name}.txt")]
    return max(found, key=lambda path: path.stat().st_size).read_text()


def figures(program: Program, compiled: Compiled, parameters: tuple[int, int], slices: int) -> dict[str, Any]:
    """The verb's result: sizes in bytes a chip, FLOPs of all chips together."""
    sent = hlo.collectives(compiled.text, program.mesh.size // slices)
    arrays = hlo.buffers(compiled.assignment, compiled.text, LARGE)
    memory = compiled.memory
    kinds = sorted({x.kind for x in sent})
    return {
        "mesh": {name: size for name, size in program.mesh.shape.items() if size > 1},
        "chips": program.mesh.size,
        "parameters": parameters[0],
        "active_parameters": parameters[1],
        "sequences": program.sequences,
        "tokens": program.tokens,
        "hbm": memory,
        "fits": memory["total"] <= memory["limit"],
        "over": max(0, memory["total"] - memory["limit"]),
        "model_flops": program.flops,
        "sent": {kind: sum(x.bytes for x in sent if x.kind == kind) for kind in kinds},
        "sent_between_slices": sum(x.bytes for x in sent if x.crosses),
        "collectives": [x._asdict() for x in sent],
        "arrays": [x._asdict() for x in arrays],
        "compile_s": round(compiled.seconds, 1),
        "compile_cpu_s": round(compiled.processor_seconds, 1),
    }


def show(result: dict[str, Any]) -> None:
    """The result for people, on stderr."""
    hbm = result["hbm"]
    lines = [
        f"{result['program']} on {result['slices']} x {result['topology']}, {result['chips']} chips, {result['mesh']}: "
        f"{result['parameters'] / 1e9:.2f}B parameters, {result['sequences']} sequences, {result['tokens']} tokens, "
        f"{result['model_flops']:.3g} FLOPs, compiled in {result['compile_s']} s "
        f"({result['compile_cpu_s']} of processors)",
        "a chip holds " + ", ".join(f"{key} {hbm[key] / GIB:.2f}" for key in hbm) + " GiB",
    ]
    if not result["fits"]:
        lines.append(f"DOES NOT FIT: {result['over'] / GIB:.2f} GiB too much a chip")
    lines.append("largest arrays of a chip:")
    lines += [
        f"  {x['bytes'] / GIB:7.2f} GiB  {x['kind']:9}  {x['shape']}  {x['source']}" for x in result["arrays"][:SHOWN]
    ]
    lines.append("a chip sends:")
    lines += [
        f"  {x['bytes'] / GIB:8.2f} GiB{'/pass' if x['open_ended'] else '     '}  {x['times']:6} x {x['kind']} "
        f"{x['shape']} over {x['group']}  {x['source']}"
        for x in result["collectives"][:SHOWN]
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)


if __name__ == "__main__":
    command.main(main)
