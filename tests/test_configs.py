"""Every config loads, is locked and is complete; every key of a section is read somewhere."""

import ast
import dataclasses
import importlib.util
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from r1jax import config as sections
from r1jax.pipeline import pipeline_stages

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if not path.name.startswith("_"))


def load(path: Path) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(f"configs_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_loads_locked_and_complete(path):
    config = load(path)
    assert isinstance(config, ConfigDict) and config.is_locked, "get_config() must return a locked ConfigDict"
    if config.stage != "pipeline":
        sections.stage_config(config)
        return
    assert all(stage.is_locked for stage in config.stages.values())
    stages = pipeline_stages(config)
    assert list(stages) == list(config.order)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_fresh_each_time(path):
    """A change to one run's config must not reach the next one's."""
    first, second = load(path), load(path)
    assert first.to_dict() == second.to_dict()
    with first.unlocked():
        first.seed = first.seed + 1
    assert load(path).seed == second.seed


def names_read(source: str) -> set[str]:
    """Names read as `something.name`; assignments do not count.

    A file that reads names from a table, as `getattr(config, name)`, reads the strings that are written in it.
    """
    nodes = list(ast.walk(ast.parse(source)))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    if any(is_table_read(node) for node in nodes):
        names |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return names


def is_table_read(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "getattr"
        and isinstance(node.args[1], ast.Name)
    )


KEYS = sorted(
    (kind.__name__, field.name)
    for kind in vars(sections).values()
    if dataclasses.is_dataclass(kind) and isinstance(kind, type)
    for field in dataclasses.fields(kind)
)


def read_by_methods(source: str) -> set[str]:
    """Names that sections' public methods read, as `RolloutConfig.limit`; a section's own checks do not count."""
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    methods = [node for kind in classes for node in kind.body if isinstance(node, ast.FunctionDef)]
    return set().union(*(names_read(ast.unparse(node)) for node in methods if not node.name.startswith("_")))


SOURCES = {path: path.read_text("utf-8") for path in (ROOT / "r1jax").rglob("*.py")}
READ = set().union(
    *((read_by_methods if path.parent.name == "config" else names_read)(text) for path, text in SOURCES.items())
)


def test_every_key_is_read_somewhere():
    unread = [f"{section}.{key}" for section, key in KEYS if key not in READ]
    assert not unread, f"config keys that nothing reads (delete them, or use them): {', '.join(unread)}"


def test_reading_is_told_from_writing():
    section = "class C:\n    def __post_init__(self):\n        self.a\n    def limit(self):\n        return self.b\n"
    assert read_by_methods(section) == {"b"}
    assert names_read("a.kept + b.c\nd.set = 1\nx = 'text'") == {"kept", "c"}
    assert names_read("AXES = ('data', 'fsdp')\nsizes = [getattr(config, axis) for axis in AXES]") == {"data", "fsdp"}
