"""A room imports only rooms above it; see 'Rooms' in docs/design.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = (  # rooms of one floor do not import each other, but for those in NEIGHBOURS
    ("types", "config", "mesh", "hlo", "processes"),
    ("data", "models", "rewards", "losses"),
    ("rollout", "training"),
    ("stages",),
    ("report_html", "report_figures", "report_runs"),
    ("report_answers", "report_provenance"),
    ("report_stages", "pipeline"),
    ("sweep",),
    ("main", "generate", "evaluate", "pairs", "convert", "aot", "report", "command"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Sections, processes and mesh speak of the records; each verb stands on `command`; a pipeline ends with its report.
NEIGHBOURS = {
    ("config", "types"),
    ("processes", "types"),
    ("mesh", "types"),
    ("mesh", "config"),
} | {(verb, "command") for verb in FLOORS[-1] if verb != "command"}
DOWNWARD = {("pipeline", "report")}


def imported_rooms(source: str, module: str) -> set[str]:
    """Rooms of r1jax that a module's source imports, wherever the import stands."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, node.module] if node.module else package)
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "r1jax" else [base]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("r1jax.")}
    return rooms


def violations(source: str, module: str) -> list[str]:
    """What a module, named `r1jax.ROOM...`, imports against the order."""
    room = module.split(".")[1]
    if room not in FLOOR:
        return [f"{module}: the room {room!r} is not in the order"]
    found = []
    for other in sorted(imported_rooms(source, module) - {room}):
        allowed = FLOOR.get(other, len(FLOORS)) < FLOOR[room] or (room, other) in NEIGHBOURS | DOWNWARD
        if not allowed:
            found.append(f"{module} imports {other!r}, which does not stand above {room!r}")
    return found


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = sorted(path for path in (ROOT / "r1jax").rglob("*.py") if module_name(path) != "r1jax")


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_follow_the_order(path):
    found = violations(path.read_text(encoding="utf-8"), module_name(path))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "module", "named"),
    [
        ("from r1jax.stages import rl", "r1jax.training.step", "stages"),
        ("import r1jax.models.policy", "r1jax.losses.logprobs", "models"),
        ("from r1jax import data", "r1jax.rewards.answers", "data"),
        ("from ..rollout import engine", "r1jax.training.step", "rollout"),
        ("def f():\n    from r1jax.pipeline import run", "r1jax.stages.rl", "pipeline"),
        ("from r1jax.command import main", "r1jax.stages.rl", "command"),
        ("from r1jax.report import write_report", "r1jax.main", "report"),
        ("from r1jax.helpers import f", "r1jax.stages.rl", "helpers"),
    ],
)
def test_a_violation_is_caught(source, module, named):
    assert len(found := violations(source, module)) == 1 and repr(named) in found[0]


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from r1jax.types import Packed\nfrom . import layers\nfrom .moe import route", "r1jax.models.policy"),
        ("from r1jax.pipeline import run\nfrom r1jax import command", "r1jax.main"),
        ("import jax\nfrom r1jaxlike.stages import x", "r1jax.types"),
        ("from r1jax.report import write_report", "r1jax.pipeline"),
    ],
)
def test_the_order_allows(source, module):
    assert violations(source, module) == []
