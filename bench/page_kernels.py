"""The benchmarks' section on kernels, from the lines of `bench/kernels.py`."""

from __future__ import annotations

from typing import Any

Line = dict[str, Any]
PASSES = ("forward", "forward and backward")
INTRO = """## Kernels by platform

What could do each piece of the policy's work, on the same inputs; every result is checked against r1jax's own.
Milliseconds of the machine's processors a pass, of all its threads (`bench/kernels.py`, medians of {rounds}), and MiB
of temporaries of the compiled program; the least is in bold. Experts are the routed
feed-forward whole, with routing and layout; attention has {tokens} tokens or so whatever the length; cross-entropy is
the sum of the targets' log-probabilities. The choice stands in one place each: `grouped_matmul` in
`r1jax/models/moe_experts.py`, `attend` in `r1jax/models/attention.py` (`policy.attention_block`), `token_logprobs` in
`r1jax/losses/logprobs.py` (`batch.logit_chunk`)."""
TPU = """### {platform}, by its compiler

No TPU was at hand: figures are what the compiler counts for one chip, in {dtype}. `at least` is the longer of FLOPs at
{peak:.0f} TFLOP/s and bytes at {band:.0f} GB/s, the chip's data sheet. A choice that loops has no figures but its
memory, as the compiler counts a loop's body once; nor has a Pallas kernel that does not say what it costs. Of
`ragged_dot` as XLA compiles it unless told otherwise the FLOPs are an upper bound: it multiplies by every expert, in
one fusion that is given the groups' bounds, and the count does not say what it skips. With
`xla_tpu_enable_ragged_dot_kernel` it becomes a kernel, which counts the rows that are there."""
GPU = "### GPU\n\nnot measured: none was at hand."
CHIPS = {"TPU v5 lite": (197e12, 819e9), "TPU v6 lite": (918e12, 1640e9)}  # bfloat16 FLOP/s, bytes/s of HBM


def section(lines: list[Line]) -> str:
    """Markdown; "" where kernels were not measured."""
    found = [line for line in lines if line["measure"] == "kernel"]
    if not found:
        return ""
    here = [line for line in found if "TPU" not in line["platform"] or "cpu_s" in line]
    there = [line for line in found if line not in here]
    rounds = min((line["n"] for line in here if "n" in line), default=0)
    parts = [INTRO.format(rounds=rounds, tokens="4,096")]
    for platform in dict.fromkeys(line["platform"] for line in here):
        of = [line for line in here if line["platform"] == platform]
        parts.append(f"### {platform.upper()}, {of[0]['dtype']}\n\n{_table(of, _measured)}")
    if not any("NVIDIA" in line["platform"] for line in here):
        parts.append(GPU)
    for platform in dict.fromkeys(line["platform"] for line in there):
        of = [line for line in there if line["platform"] == platform]
        peak, band = CHIPS[platform]
        head = TPU.format(platform=platform, dtype=of[0]["dtype"], peak=peak / 1e12, band=band / 1e9)
        parts.append(f"{head}\n\n{_table(of, _estimated)}")
    return "\n\n".join(parts)


def _table(lines: list[Line], cell: Any) -> str:
    rows = ["| work | choice | forward | forward and backward |", "| --- | --- | --- | --- |"]
    for work in dict.fromkeys((line["op"], line["shape"]) for line in lines):
        of = [line for line in lines if (line["op"], line["shape"]) == work]
        best = {kind: _best([line for line in of if line["pass"] == kind]) for kind in PASSES}
        for choice in _in_order(of):
            cells = []
            for kind in PASSES:
                line = next((x for x in of if (x["choice"], x["pass"]) == (choice, kind)), None)
                text = cell(line) if line else ""
                cells.append(f"**{text}**" if line is not None and line is best[kind] else text)
            rows.append(f"| {work[0]}, {work[1]} | {choice} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _in_order(lines: list[Line]) -> list[str]:
    """Choices, r1jax's own first."""
    return sorted(dict.fromkeys(line["choice"] for line in lines), key=lambda choice: not choice.startswith("own"))


def _best(lines: list[Line]) -> Line | None:
    """Of those measured, that which costs least."""
    able = [line for line in lines if "cpu_s" in line and "failed" not in line]
    return min(able, key=lambda line: line["cpu_s"]) if able else None


def _measured(line: Line) -> str:
    if "failed" in line:
        return f"cannot: {line['failed'].rstrip('.')}"
    return f"{_ms(line['cpu_s'])} ms, {line['temp_mib']:.0f} MiB"


def _estimated(line: Line) -> str:
    if "failed" in line:
        return f"cannot: {line['failed'].rstrip('.')}"
    memory = f"{line['temp_mib']:.1f} MiB"
    if not line.get("chip_flops"):
        return f"not counted, {memory}"
    peak, band = CHIPS[line["platform"]]
    least = max(line["chip_flops"] / peak, line["chip_bytes"] / band)
    return (
        f"{line['chip_flops'] / 1e9:.3g} GFLOP, {line['chip_bytes'] / 1e6:.3g} MB, at least {_ms(least)} ms, {memory}"
    )


def _ms(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"
