"""Hugging Face tensors as the policy's variables, and back: one table, read in both directions.

An array's name ends in its axes, and so does a row of the table: `q_DHC` is stored as `self_attn.q_proj.weight` with
the axes "HC,D", that is as a matrix [H * C, D]; the transposition follows from the letters. Layers are stacked and
experts stand side by side in the variables, each is a tensor of its own in the files.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.config import PolicyConfig
from r1jax.models.policy import abstract_variables
from r1jax.models.tensor_files import TensorFiles, ToWrite
from r1jax.types import PyTree

FP8_BLOCK = 128  # rows and columns that share a scale
SCALE = "_scale_inv"
_COMPARED_ROWS = 8192  # of a duplicate, read at a time
Path = tuple[str, ...]


class Row(NamedTuple):
    """A row of the table: an array of a layer and the tensor it is stored as."""

    path: Path  # within the layer's variables; the last name ends in the array's axes
    tensor: str  # within the layer; {expert} stands for the expert's number
    axes: str  # the tensor's, the merged ones together: "HC,D"
    cut: tuple[int, int] | None = None  # the part of the axis C that is this array's


class Place(NamedTuple):
    """An array's entry of one layer: the tensors it is made of."""

    path: Path  # in the variables, the collection first
    layer: int | None  # position on the leading axis; None: the array has no such axis
    row: Row
    prefix: str

    def tensor(self, expert: int) -> str:
        return self.prefix + self.row.tensor.format(expert=expert)

    @property
    def by_expert(self) -> bool:
        return "{expert}" in self.row.tensor


def _norm(path: Path, tensor: str) -> Row:
    return Row((*path, "scale_X"), f"{tensor}.weight", "X")


def _ffn(path: Path, prefix: str) -> list[Row]:
    return [
        Row((*path, "gate_DF"), f"{prefix}.gate_proj.weight", "F,D"),
        Row((*path, "up_DF"), f"{prefix}.up_proj.weight", "F,D"),
        Row((*path, "down_FD"), f"{prefix}.down_proj.weight", "D,F"),
    ]


def _experts(config: PolicyConfig) -> list[Row]:
    rows = [
        Row(("moe", "router_DE"), "mlp.gate.weight", "E,D"),
        Row(("moe", "gate_EDF"), "mlp.experts.{expert}.gate_proj.weight", "F,D"),
        Row(("moe", "up_EDF"), "mlp.experts.{expert}.up_proj.weight", "F,D"),
        Row(("moe", "down_EFD"), "mlp.experts.{expert}.down_proj.weight", "D,F"),
    ]
    if config.score == "sigmoid":  # V2 balances by a loss alone; its load bias stays 0
        rows.append(Row(("moe", "bias_E"), "mlp.gate.e_score_correction_bias", "E"))
    if config.shared_experts:
        rows += _ffn(("moe", "shared"), "mlp.shared_experts")
    return rows


def _attention(config: PolicyConfig) -> list[Row]:
    c, at = config, "self_attn"
    if c.attention == "gqa":
        rows = [
            Row(("q_DHC",), f"{at}.q_proj.weight", "HC,D"),
            Row(("k_DKC",), f"{at}.k_proj.weight", "KC,D"),
            Row(("v_DKC",), f"{at}.v_proj.weight", "KC,D"),
        ]
        if c.attention_bias:
            rows += [
                Row(("q_bias_HC",), f"{at}.q_proj.bias", "HC"),
                Row(("k_bias_KC",), f"{at}.k_proj.bias", "KC"),
                Row(("v_bias_KC",), f"{at}.v_proj.bias", "KC"),
            ]
        if c.qk_norm:
            rows += [_norm(("q_norm",), f"{at}.q_norm"), _norm(("k_norm",), f"{at}.k_norm")]
    else:
        both = c.nope_head_dim + c.v_head_dim
        rows = [
            Row(("kv_down_DW",), f"{at}.kv_a_proj_with_mqa.weight", "W,D"),
            _norm(("kv_norm",), f"{at}.kv_a_layernorm"),
            Row(("k_up_WHC",), f"{at}.kv_b_proj.weight", "HC,W", (0, c.nope_head_dim)),
            Row(("v_up_WHC",), f"{at}.kv_b_proj.weight", "HC,W", (c.nope_head_dim, both)),
        ]
        if c.q_lora_rank:
            rows += [
                Row(("q_down_DQ",), f"{at}.q_a_proj.weight", "Q,D"),
                _norm(("q_norm",), f"{at}.q_a_layernorm"),
                Row(("q_up_QHC",), f"{at}.q_b_proj.weight", "HC,Q"),
            ]
        else:
            rows.append(Row(("q_DHC",), f"{at}.q_proj.weight", "HC,D"))
    rows.append(Row(("out_HCD",), f"{at}.o_proj.weight", "D,HC"))
    return [row._replace(path=("attention", *row.path)) for row in rows]


def _block(config: PolicyConfig, mixture: bool) -> list[Row]:
    norms = [_norm(("attention_norm",), "input_layernorm"), _norm(("ffn_norm",), "post_attention_layernorm")]
    return norms + _attention(config) + (_experts(config) if mixture else _ffn(("ffn",), "mlp"))


def _prediction(config: PolicyConfig) -> list[Row]:
    """The module for multi-token prediction, stored as one layer more."""
    block = [row._replace(path=("block", *row.path)) for row in _block(config, mixture=True)]
    return [
        _norm(("embed_norm",), "enorm"),
        _norm(("hidden_norm",), "hnorm"),
        Row(("join_ID",), "eh_proj.weight", "D,I"),
        _norm(("norm",), "shared_head.norm"),
        *block,
    ]


def places(config: PolicyConfig) -> list[Place]:
    """Every array of the policy's variables, layer by layer, with the tensors it is stored as."""

    def of(rows: list[Row], stack: Path, layer: int | None, prefix: str) -> list[Place]:
        return [
            Place(("router" if row.path[-1] == "bias_E" else "params", *stack, *row.path), layer, row, prefix)
            for row in rows
        ]

    top = [Row(("embed_VD",), "embed_tokens.weight", "V,D"), _norm(("norm",), "norm")]
    found = of(top, (), None, "model.")
    if not config.tied:
        found += of([Row(("head_DV",), "lm_head.weight", "V,D")], (), None, "")
    for n in range(config.layers):
        mixture = n >= config.dense_layers
        at = n - config.dense_layers if mixture else n
        found += of(_block(config, mixture), ("moe" if mixture else "dense",), at, f"model.layers.{n}.")
    if config.mtp_layers:
        found += of(_prediction(config), ("mtp",), None, f"model.layers.{config.layers}.")
    return found


def duplicates(config: PolicyConfig) -> dict[str, str]:
    """Tensors that repeat another one, which a file may hold or leave out: name -> the one that is repeated."""
    embed, head = "model.embed_tokens.weight", "lm_head.weight"
    repeated = {head: embed} if config.tied else {}
    if config.mtp_layers:
        at = f"model.layers.{config.layers}."
        repeated |= {f"{at}embed_tokens.weight": embed, f"{at}shared_head.head.weight": embed if config.tied else head}
    return repeated


def has_prediction(config: PolicyConfig, files: TensorFiles) -> bool:
    """Whether the files hold the module that `mtp_layers` speaks of; transformers leaves it out when it saves."""
    return any(name.startswith(f"model.layers.{config.layers}.") for name in files.tensors)


def read_variables(config: PolicyConfig, files: TensorFiles, shardings: PyTree) -> PyTree:
    """The policy's variables, each tensor read straight into its place.

    A stacked array is allocated on the devices once and filled layer by layer, so that the host holds one layer of one
    array at a time, and of it only what its own devices need.

    Args:
      shardings: of `abstract_variables(config)`, leaf by leaf.

    Raises:
      ValueError: a tensor is missing, is one too many, or has another shape; names it.
    """
    abstract = abstract_variables(config)
    shapes, place_of = _flat(abstract), _flat(shardings)
    wanted = places(config)
    _check_tensors(config, files, wanted, shapes)
    leaves: dict[Path, jax.Array] = {}
    for place in wanted:
        leaf, sharding = shapes[place.path], place_of[place.path]
        make = functools.partial(_shard, files, place, leaf)
        if place.layer is None:
            leaves[place.path] = jax.make_array_from_callback(leaf.shape, sharding, make)
            continue
        if place.path not in leaves:
            leaves[place.path] = jnp.zeros(leaf.shape, leaf.dtype, device=sharding)
        one = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*sharding.spec[1:]))
        layer = jax.make_array_from_callback(leaf.shape[1:], one, make)
        # Waited for: the host reads faster than the devices copy, and layers would pile up in between.
        leaves[place.path] = jax.block_until_ready(_put(leaves[place.path], layer, place.layer))
    for path, leaf in shapes.items():
        if path not in leaves:  # the load bias of a V2, which no tensor holds
            leaves[path] = jnp.zeros(leaf.shape, leaf.dtype, device=place_of[path])
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[_names(path)], abstract)


@functools.partial(jax.jit, donate_argnums=0)
def _put(stack: jax.Array, layer: jax.Array, at: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, layer, at, axis=0)


def _shard(files: TensorFiles, place: Place, leaf: jax.ShapeDtypeStruct, index: tuple[slice, ...]) -> np.ndarray:
    """The part `index` of one layer of a leaf."""
    letters, shape = _letters(place), _layer_shape(place, leaf)
    ranges = {letter: at.indices(size)[:2] for letter, at, size in zip(letters, index, shape, strict=True)}
    if not place.by_expert:
        return _read(files, place.tensor(0), place.row, letters, ranges, dict(zip(letters, shape, strict=True)), leaf)
    sizes = dict(zip(letters, shape, strict=True))
    first, last = ranges["E"]
    out = np.empty([stop - start for start, stop in ranges.values()], leaf.dtype)
    for expert in range(first, last):
        out[expert - first] = _read(files, place.tensor(expert), place.row, letters[1:], ranges, sizes, leaf)
    return out


def _read(
    files: TensorFiles,
    name: str,
    row: Row,
    letters: str,
    ranges: dict[str, tuple[int, int]],
    sizes: dict[str, int],
    leaf: jax.ShapeDtypeStruct,
) -> np.ndarray:
    """`ranges` of a tensor, its axes in the order of `letters`. Whole rows of the file are read, no others."""
    axes = row.axes.replace(",", "")
    stored = files.tensors[name].shape
    sizes = sizes | ({"C": _stored_c(row, sizes, stored)} if "C" in axes else {})
    start, stop = ranges[axes[0]]
    merged = math.prod(sizes[letter] for letter in row.axes.split(",")[0][1:])
    array = read_rows(files, name, start * merged, stop * merged)
    array = array.reshape([stop - start, *(sizes[letter] for letter in axes[1:])])
    base = row.cut[0] if row.cut else 0
    for i, letter in enumerate(axes[1:], start=1):
        low, high = ranges[letter]
        offset = base if letter == "C" else 0
        array = array[(slice(None),) * i + (slice(low + offset, high + offset),)]
    return np.ascontiguousarray(array.transpose([axes.index(letter) for letter in letters]), leaf.dtype)


def _stored_c(row: Row, sizes: dict[str, int], stored: tuple[int, ...]) -> int:
    """The head size of the tensor, of which an array may be a cut."""
    if row.cut is None:
        return sizes["C"]
    return stored[0] // sizes["H"]


def read_rows(files: TensorFiles, name: str, start: int, stop: int) -> np.ndarray:
    """Rows of a tensor; one stored in FP8 is multiplied by the scales of its blocks, in float32."""
    stored = files.tensors[name]
    array = files.read(name, start, stop)
    if stored.dtype.itemsize > 1:
        return array
    first = start // FP8_BLOCK
    scale = files.read(name + SCALE, first, -(-stop // FP8_BLOCK)).astype(np.float32)
    rows = np.arange(start, stop) // FP8_BLOCK - first
    wide = array.astype(np.float32)
    for block in range(scale.shape[1]):
        wide[:, block * FP8_BLOCK : (block + 1) * FP8_BLOCK] *= scale[rows, block, None]
    return wide


def _check_tensors(
    config: PolicyConfig, files: TensorFiles, wanted: list[Place], shapes: dict[Path, jax.ShapeDtypeStruct]
) -> None:
    """Names the first tensor that is missing, misshapen or unknown, before any is read."""
    known: dict[str, tuple[int, ...]] = dict(_stored_shapes(config, wanted, shapes))
    aliases = duplicates(config)
    for name, shape in known.items():
        if name not in files.tensors:
            raise ValueError(f"tensor {name} is missing in {files.folder}; expected {list(shape)}")
    for name, stored in files.tensors.items():
        of = name.removesuffix(SCALE)
        if of != name and of in files.tensors and files.tensors[of].dtype.itemsize == 1:
            shape = tuple(-(-size // FP8_BLOCK) for size in files.tensors[of].shape)
        elif name in aliases:
            shape = known[aliases[name]]
        elif name.endswith(".rotary_emb.inv_freq"):  # a buffer that old files hold; it follows from the config
            continue
        elif name in known:
            shape = known[name]
        else:
            raise ValueError(f"tensor {name} of {stored.path} has no place in the model that config.json describes")
        if stored.shape != shape:
            raise ValueError(f"tensor {name} of {stored.path} is {list(stored.shape)}; expected {list(shape)}")
        if stored.dtype.itemsize == 1 and (len(shape) != 2 or name + SCALE not in files.tensors):
            raise ValueError(f"tensor {name + SCALE} is missing in {files.folder}: {name} is FP8")
    for name, of in aliases.items():
        if name in files.tensors:
            _check_equal(files, name, of)


def _check_equal(files: TensorFiles, name: str, of: str) -> None:
    for start in range(0, files.tensors[of].shape[0], _COMPARED_ROWS):
        stop = min(start + _COMPARED_ROWS, files.tensors[of].shape[0])
        if not np.array_equal(read_rows(files, name, start, stop), read_rows(files, of, start, stop)):
            raise ValueError(f"tensor {name} differs from {of} in rows {start}:{stop}; r1jax holds them as one")


def _stored_shapes(
    config: PolicyConfig, wanted: list[Place], shapes: dict[Path, jax.ShapeDtypeStruct]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for place in wanted:
        sizes = dict(zip(_letters(place), _layer_shape(place, shapes[place.path]), strict=True))
        if place.row.cut:
            sizes["C"] = config.nope_head_dim + config.v_head_dim
        shape = tuple(math.prod(sizes[letter] for letter in axis) for axis in place.row.axes.split(","))
        for expert in range(sizes["E"] if place.by_expert else 1):
            yield place.tensor(expert), shape


def tensors(config: PolicyConfig, variables: PyTree, dtype: np.dtype) -> Iterator[ToWrite]:
    """The policy's variables as tensors to write, in the files' order; load biases stay float32.

    Raises:
      ValueError: a load bias is not 0 where the format has none.
    """
    leaves = _flat(variables)
    wanted = places(config)
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    for path in leaves.keys() - {place.path for place in wanted}:
        if np.asarray(leaves[path]).any():
            raise ValueError(
                f"{'/'.join(path)} is not 0; the format has no tensor for it: train with router.bias_rate 0"
            )
    parts: dict[str, list[tuple[Place, int]]] = {}
    for place in wanted:
        for expert in range(config.experts if place.by_expert else 1):
            parts.setdefault(place.tensor(expert), []).append((place, expert))
    stored = dict(_stored_shapes(config, wanted, shapes))
    writes = {
        name: ToWrite(
            name,
            np.dtype(np.float32) if name.endswith("e_score_correction_bias") else dtype,
            stored[name],
            functools.partial(_written, leaves, made_of, stored[name]),
        )
        for name, made_of in parts.items()
    }
    yield from writes.values()
    for name, of in duplicates(config).items():
        if not (config.tied and name == "lm_head.weight"):  # tied files hold one, as transformers writes them
            yield writes[of]._replace(name=name)


def _written(leaves: dict[Path, Any], made_of: list[tuple[Place, int]], shape: tuple[int, ...]) -> np.ndarray:
    """One tensor of a file, from its array, or from the arrays that are cuts of it."""
    cuts = []
    for place, expert in sorted(made_of, key=lambda part: part[0].row.cut or (0, 0)):
        array = leaves[place.path]
        index = (() if place.layer is None else (place.layer,)) + ((expert,) if place.by_expert else ())
        array = np.asarray(array[index] if index else array)
        letters = _letters(place)[1:] if place.by_expert else _letters(place)
        cuts.append(array.transpose([letters.index(letter) for letter in place.row.axes.replace(",", "")]))
    axes = made_of[0][0].row.axes.replace(",", "")
    return (np.concatenate(cuts, axis=axes.index("C")) if len(cuts) > 1 else cuts[0]).reshape(shape)


def _letters(place: Place) -> str:
    """The axes of an array, which its name ends in, without the layers'."""
    return place.path[-1].rpartition("_")[2]


def _layer_shape(place: Place, leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    return tuple(leaf.shape if place.layer is None else leaf.shape[1:])


def _names(path: tuple) -> Path:
    return tuple(str(getattr(key, "key", key)) for key in path)


def _flat(tree: PyTree) -> dict[Path, Any]:
    return {_names(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
