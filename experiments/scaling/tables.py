"""The tables of docs/scaling.md, each a Markdown text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from configs import r1_16b, r1_671b
from configs.models import deepseek_v3, moonlight_16b_a3b, qwen2_5_1_5b
from experiments.scaling import bounds, work
from experiments.scaling.bounds import Bound
from experiments.scaling.chips import CHIPS, V5P, V6E, Chip
from experiments.scaling.figures import seconds, si, table
from r1jax.config import PolicyConfig
from r1jax.models.policy import mtp_parameter_count, parameter_count

POLICIES = {
    "DeepSeek-V3 671B": PolicyConfig(**deepseek_v3.get_config()),
    "Moonlight 16B-A3B": PolicyConfig(**moonlight_16b_a3b.get_config()),
    "Qwen2.5 1.5B": PolicyConfig(**qwen2_5_1_5b.get_config()),
}
ROWS, ROW = 512, 32_768  # R1-Zero's update: sequences, and tokens of each
CACHE = ROW // 2  # of a sequence that grows to ROW, on average
# Chips that each policy is tabled on: of v5p, v6e, H200.
CHOSEN = {
    "DeepSeek-V3 671B": (1024, 1024, 512),
    "Moonlight 16B-A3B": (64, 64, 64),
    "Qwen2.5 1.5B": (8, 8, 8),
}
CONFIGS = (
    ("configs/r1_671b.py", r1_671b.get_config(), V5P, 1024),
    ("configs/r1_16b.py", r1_16b.get_config(), V5P, 16),
    ("configs/r1_16b.py", r1_16b.get_config(), V6E, 16),
)
COUNTS = tuple(2**i for i in range(2, 13))
# https://github.com/AI-Hypercomputer/tpu-recipes, training/v5p/DeepSeek3-671B-MaxText: README.md, and
# cluster_toolkit/run_recipe.sh: 8x8x8 chips, per_device_batch_size 6, max_target_length 8192, weights in float32, fsdp.
PUBLISHED = dict(chips=512, rows=6, row=8192, seconds=90.668, tflops=152.415)


def mesh_name(bound: Bound) -> str:
    """The axes of more than one chip."""
    return " ".join(f"{axis}={size}" for axis, size in bound.sizes if size > 1) or "one chip"


def by_part(bound: Bound) -> str:
    parts = sorted(bound.seconds, key=lambda item: -item[1])
    return ", ".join(f"{name} {seconds(taken)}" for name, taken in parts if taken > 0)


def chosen() -> list[tuple[str, PolicyConfig, Chip, int]]:
    return [
        (name, policy, chip, count)
        for name, policy in POLICIES.items()
        for chip, count in zip(CHIPS, CHOSEN[name], strict=True)
    ]


def update(policy: PolicyConfig, chip: Chip, count: int) -> Bound | None:
    return bounds.best_training(policy, chip, count, ROWS, ROW)


def decode(policy: PolicyConfig, chip: Chip, count: int) -> Bound | None:
    return bounds.best_decoding(policy, chip, count, ROWS, CACHE, ROW)


def state(policy: PolicyConfig, chip: Chip, count: int) -> str:
    """Why no mesh fits: bytes a chip of the state alone, sharded over a whole slice."""
    each = count // chip.slices(count)
    sizes = dict(data=chip.slices(count), fsdp=each, expert=1, tensor=1, context=1)
    return f"does not fit: {si(work.state_bytes(policy, sizes), 'B')} of state a chip of {si(chip.memory, 'B')}"


# --- Tables ----------------------------------------------------------------------------------------------------------


def policies() -> str:
    rows = []
    for name, p in POLICIES.items():
        total = parameter_count(p)[0] - mtp_parameter_count(p)[0]
        flops = work.row_flops(p, ROW) / ROW
        share = 1 - 2 * work.active_parameters(p) / flops
        alone = sum(w.size for w in work.weights(p) if not w.spread)
        slot = work.latent_width(p) * work.COMPUTE_BYTES * p.layers
        rows.append(
            [name, si(total), si(work.active_parameters(p)), si(flops), f"{share:.0%}", si(slot, "B"), si(alone)]
        )
    head = [
        "policy",
        "parameters",
        "that multiply a token",
        "FLOPs of a token, forward",
        "of these attention",
        "cache of a token",
        "parameters whole along fsdp",
    ]
    return table(head, rows)


def chips() -> str:
    rows = []
    for c in CHIPS:
        near = (
            f"{2 * c.dims} ports of {si(c.link_rate, 'B/s')}"
            if c.dims
            else f"{si(c.link_rate, 'B/s')} to {c.domain} GPUs"
        )
        per_byte = c.flops / c.memory_rate
        rows.append(
            [
                c.name,
                si(c.flops),
                si(c.memory, "B"),
                si(c.memory_rate, "B/s"),
                near,
                si(c.network_rate, "B/s"),
                f"{per_byte:.0f}",
            ]
        )
    return table(
        ["chip", "FLOP/s", "memory", "of it a second", "links, one way", "network", "FLOPs a byte of memory"], rows
    )


def published_bound() -> Bound:
    """MaxText's recipe on our terms: parameters in float32, all chips on fsdp."""
    policy = dataclasses.replace(POLICIES["DeepSeek-V3 671B"], param_dtype="float32")
    count = int(PUBLISHED["chips"])
    sizes = dict(data=1, fsdp=count, expert=1, tensor=1, context=1)
    return bounds.training(policy, V5P, sizes, rows=int(PUBLISHED["rows"]) * count, row_tokens=int(PUBLISHED["row"]))


def published() -> str:
    b = published_bound()
    taken, count = PUBLISHED["seconds"], int(PUBLISHED["chips"])
    theirs = PUBLISHED["tflops"] * 1e12 * taken * count
    rows = [
        ["tokens a step", si(b.tokens), f"{int(PUBLISHED['rows'])} x {count} x {int(PUBLISHED['row'])}"],
        ["model FLOPs a step, from shapes", si(b.model_flops), "three times a forward pass"],
        ["model FLOPs a step, published", si(theirs), "TFLOP/s a device x devices x seconds"],
        ["published over ours", f"{theirs / b.model_flops:.4f}", ""],
        ["seconds a step, published", f"{taken:.2f}", f"MFU {b.model_flops / b.peak / taken:.1%}"],
        ["bound on the step", seconds(b.least), by_part(b)],
        ["if nothing overlaps", seconds(b.summed), f"MFU {b.model_flops / b.peak / b.summed:.1%}"],
        ["published over the bound", f"{taken / b.least:.2f}", f"over the sum {taken / b.summed:.2f}"],
    ]
    return table(["DeepSeek3-671B, 512 v5p chips", "", ""], rows)


def training() -> str:
    rows = []
    for name, policy, chip, count in chosen():
        b = update(policy, chip, count)
        if b is None:
            rows.append([name, f"{count} {chip.name}", state(policy, chip, count), *[""] * 6])
            continue
        at_once = b.tokens / work.token_ways(dict(b.sizes)) / b.micro
        low = b.model_flops / b.peak / b.summed
        rows.append([
            name, f"{count} {chip.name}", mesh_name(b), str(b.micro), f"{at_once:,.0f}", si(b.memory, "B"), by_part(b),
            seconds(b.least), f"{low:.0%} to {b.mfu:.0%}",
        ])  # fmt: skip
    head = [
        "policy",
        "chips",
        "mesh",
        "micro-batches",
        "tokens a chip at once",
        "memory a chip",
        "seconds",
        "bound",
        "MFU",
    ]
    return table(head, rows)


def collectives() -> str:
    rows = []
    for name, policy, chip, count in chosen():
        for kind, b in (("update", update(policy, chip, count)), ("token", decode(policy, chip, count))):
            if b is not None:
                what = ", ".join(f"{what} {si(n, 'B')}" for what, n in b.moved) or "none"
                rows.append([name, f"{count} {chip.name}", kind, what])
    return table(["policy", "chips", "step", "bytes a chip receives (of an all-to-all: sends)"], rows)


def decoding() -> str:
    rows = []
    for name, policy, chip, count in chosen():
        b = decode(policy, chip, count)
        if b is None:
            rows.append([name, f"{count} {chip.name}", "does not fit", *[""] * 5])
            continue
        rate = b.tokens / b.least
        rows.append([
            name, f"{count} {chip.name}", mesh_name(b), si(b.memory, "B"), by_part(b), seconds(b.least), f"{rate:,.0f}",
            f"{rate / b.chips:,.0f}",
        ])  # fmt: skip
    return table(["policy", "chips", "mesh", "memory a chip", "seconds", "a token", "tokens/s", "a chip"], rows)


def rl_step() -> str:
    """Sampling, scoring by the old and the reference policy, update."""
    rows = []
    for name, policy, chip, count in chosen():
        b, d = update(policy, chip, count), decode(policy, chip, count)
        if b is None or d is None:
            continue
        # A score is a forward pass, with one gather of the parameters: a quarter of an update's.
        sampling, scoring = ROW * d.least, 2 * b.least / bounds.FORWARDS
        total = sampling + scoring + b.least
        rows.append([
            name, f"{count} {chip.name}", seconds(sampling), seconds(scoring), seconds(b.least), seconds(total),
            f"{sampling / total:.0%}", f"{total * count / 3600:,.1f}",
        ])  # fmt: skip
    return table(["policy", "chips", "sampling", "scoring", "update", "step", "of it sampling", "chip-hours"], rows)


def stop(times: list[float | None]) -> int | None:
    """The place of the last time before a doubling of chips brings less than half as much again; None: all are None."""
    for i, now in enumerate(times):
        after = times[i + 1] if i + 1 < len(times) else None
        if now is not None and (after is None or now / after < 1.5):
            return i
    return None


def reach(found: list[Bound | None], *, overlapped: bool) -> str:
    """Up to how many chips a doubling pays, and what takes longest beyond (if apart, but for arithmetic)."""
    last = stop([None if b is None else b.least if overlapped else b.summed for b in found])
    if last is None:
        return "fits on none"
    here = found[last]
    assert here is not None, "a time is a bound's"
    if last + 1 == len(found):
        return f"{here.chips:,} and more"
    beyond = found[last + 1]
    if beyond is None:
        return f"{here.chips:,} (no mesh beyond)"
    parts = {name: taken for name, taken in beyond.seconds if overlapped or name != "compute"}
    return f"{here.chips:,} ({max(parts, key=lambda name: parts[name])})"


def limits() -> str:
    rows = []
    for name, policy in POLICIES.items():
        for chip in CHIPS:
            for what, make in (("update", update), ("token", decode)):
                found = [make(policy, chip, count) for count in COUNTS]
                first = next((f"{b.chips:,}" for b in found if b is not None), "none")
                overlapped, apart = reach(found, overlapped=True), reach(found, overlapped=False)
                rows.append([name, chip.name, what, first, overlapped, apart])
    return table(["policy", "chip", "step", "fits from", "scales to, all at once", "scales to, none overlapped"], rows)


def own_meshes() -> str:
    """The configs' own meshes, for training and for sampling; -1 is what is left."""
    rows = []
    for name, config, chip, count in CONFIGS:
        stage = config.stages.rl
        policy = PolicyConfig(**stage.policy)
        batch, rollout = stage.batch, stage.rollout
        trained = bounds.training(
            policy, chip, whole(dict(stage.mesh), count), rows=batch.rows, row_tokens=batch.row_length,
            micro=batch.rows // batch.micro_rows,
        )  # fmt: skip
        sampled = bounds.decoding(
            policy, chip, whole(dict(rollout.mesh), count), sequences=rollout.prompts * rollout.samples,
            cache=batch.row_length // 2, longest=batch.row_length,
        )  # fmt: skip
        for what, b in (("update", trained), ("token", sampled)):
            low = b.model_flops / b.peak / b.summed
            last = f"MFU {low:.0%} to {b.mfu:.0%}" if b is trained else f"{b.tokens / b.least:,.0f} tokens/s"
            rows.append([name, f"{count} {chip.name}", what, mesh_name(b), room(b, chip), by_part(b), last])
    return table(["config", "chips", "step", "mesh", "memory a chip", "seconds", "bound"], rows)


def room(bound: Bound, chip: Chip) -> str:
    over = "" if bounds.fits(bound, chip) else f", too much for {si(chip.memory, 'B')}"
    return si(bound.memory, "B") + over


def whole(sizes: dict[str, int], count: int) -> dict[str, int]:
    fixed = work.ways({axis: max(1, size) for axis, size in sizes.items()}, sizes)
    return {axis: count // fixed if size == -1 else size for axis, size in sizes.items()}


TABLES: dict[str, Callable[[], str]] = {
    "policies": policies, "chips": chips, "published": published, "training": training, "collectives": collectives,
    "decoding": decoding, "rl_step": rl_step, "limits": limits,
    "own_meshes": own_meshes,
}  # fmt: skip
