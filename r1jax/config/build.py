"""From a ConfigDict, or a workdir's `config.json`, to the frozen sections: every key present, known and well typed."""

from __future__ import annotations

import dataclasses
import difflib
import types as python_types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from r1jax.config.checks import one_of
from r1jax.config.stages import CONVERTED, STAGES, AnyStage, ConvertedStage

# Of sections of a stage, keys that came later, with what configs without them meant.
LATER: dict[str, dict[str, Any]] = {
    "rollout": {"ahead": 0, "precision": "policy", "slots": 0},
    "grpo": {"sampler_cap": 0.0},
}


def stage_config(config: Mapping | ConfigDict) -> AnyStage:
    """The frozen sections of one stage's config.

    Args:
      config: a stage's ConfigDict, or the dict read from a workdir's `config.json`.

    Raises:
      ValueError: a key is missing, unknown or of the wrong type; names the key, the value and the remedy.
    """
    tree = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    if "stage" not in tree:
        raise ValueError("config.stage is missing; expected one of " + ", ".join(map(repr, STAGES)))
    one_of("config.stage", tree["stage"], tuple(STAGES))
    return _build(STAGES[tree["stage"]], tree, "config")


def checkpoint_config(tree: Mapping) -> AnyStage | ConvertedStage:
    """As `stage_config`, of the `config.json` of any checkpoint; one from before a key was there opens as well."""
    tree = {name: LATER.get(name, {}) | value if name in LATER else value for name, value in tree.items()}
    return _build(ConvertedStage, tree, "config") if tree.get("stage") == CONVERTED else stage_config(tree)


def as_before(tree: Mapping) -> dict:
    """A stage's plain dict without the keys of `LATER` where they say what their absence did."""
    return {
        name: {key: said for key, said in value.items() if key not in LATER[name] or LATER[name][key] != said}
        if name in LATER
        else value
        for name, value in tree.items()
    }


def to_dict(section: Any) -> dict:
    """The plain-dict form of a frozen section, as `config.json` stores it."""
    return dataclasses.asdict(section)


def _build(kind: type, tree: Any, path: str) -> Any:
    """`tree` as a dataclass `kind`, every key present, known and of its annotated type."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{path} is {tree!r}; expected a section with keys {_keys(kind)}")
    hints = typing.get_type_hints(kind)
    for key in tree:
        if key not in hints:
            near = difflib.get_close_matches(str(key), list(hints), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {_keys(kind)}"
            raise ValueError(f"{path}.{key} is not a key of this section; {hint}")
    required = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    missing = [key for key in required if key not in tree]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; every key must be given (no hidden defaults)")
    return kind(**{key: _value(hint, tree[key], f"{path}.{key}") for key, hint in hints.items() if key in tree})


def _value(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{path} is {value!r}; expected a section of named entries")
        inner = typing.get_args(hint)[1]
        return {str(k): value[k] if inner is Any else _value(inner, value[k], f"{path}.{k}") for k in value}
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{path} is {value!r}; expected a list")
        inner = typing.get_args(hint)[0]
        return [_value(inner, v, f"{path}[{i}]") for i, v in enumerate(value)]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, python_types.UnionType) and len(typing.get_args(hint)) == 2:  # a section, or None
        return None if value is None else _value(typing.get_args(hint)[0], value, path)
    if isinstance(hint, python_types.UnionType) or not isinstance(hint, type):
        raise TypeError(f"{path}: unsupported annotation {hint!r}")
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{path} is {value!r} ({type(value).__name__}); expected {hint.__name__}")
    return value


def _keys(kind: type) -> str:
    return ", ".join(f.name for f in dataclasses.fields(kind))
