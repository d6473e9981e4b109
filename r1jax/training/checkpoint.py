"""Checkpoints in a workdir: `checkpoints/STEP/{params,train,host}`, written by Orbax.

`params` holds the policy alone, so that it opens without its optimizer; `train` holds the rest of the state
(optimizer, reference, step); `host` holds what lives outside the devices (data-iterator bytes, small JSON), the same
on every process. On disk a tree is nested dicts named by field, key or index, whatever containers it came in.

Each process writes what its devices hold, and the folder is one that all of them see. What is saved says nothing of
how many there were: any number of processes and any mesh read it back.

A step is written to a temporary folder and renamed when whole, so a killed save leaves nothing that is trusted.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from r1jax.types import PyTree

PARAMS, TRAIN, HOST = "params", "train", "host"
HOST_FILE = "host.json"
CHUNK_BYTES = 1 << 25  # of a sparing save
SHOWN = 5  # differing paths named in an error


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      workdir: folder (or bucket) of the stage; steps lie in its `checkpoints/`.
      keep: newest steps kept. None opens for reading only, and leaves a run that is writing undisturbed.
      sparing: for a host that the parameters all but fill. Arrays go in chunks to files of their own; Orbax's usual
        shared files are quicker to open, and are built in memory: a second copy of the parameters.
    """

    def __init__(self, workdir: str | os.PathLike, *, keep: int | None, sparing: bool = False):
        if keep is not None and keep < 1:
            raise ValueError(f"checkpoint.keep is {keep}; expected at least 1, or a killed run could not resume")
        quiet_orbax()
        self._directory = epath.Path(os.path.abspath(workdir) if _is_local(workdir) else workdir) / "checkpoints"
        self._writable = keep is not None
        self._sparing = sparing
        self._manager: ocp.CheckpointManager | None = None
        if self._writable or self._directory.exists():
            self._manager = self._open(keep)

    def _open(self, keep: int | None) -> ocp.CheckpointManager:
        handlers = {
            PARAMS: ocp.PyTreeCheckpointHandler(use_ocdbt=not self._sparing),
            TRAIN: ocp.PyTreeCheckpointHandler(use_ocdbt=not self._sparing),
            HOST: ocp.JsonCheckpointHandler(HOST_FILE),
        }
        if keep is None:
            options = ocp.CheckpointManagerOptions(read_only=True, create=False, save_interval_steps=0)
        else:
            newest = ocp.checkpoint_managers.LatestN(keep)
            options = ocp.CheckpointManagerOptions(
                preservation_policy=newest, cleanup_tmp_directories=True, save_root_metadata=False
            )
        return ocp.CheckpointManager(self._directory, item_handlers=handlers, options=options)

    def latest(self) -> int | None:
        """The newest step, or None where there is none.

        Raises:
          ValueError: a step's folder lost the mark of a whole save: it was tampered with.
        """
        if self._manager is None:
            return None
        whole = set(self._manager.all_steps())
        if _is_local(self._directory):  # in a bucket an unmarked step is just an interrupted save
            for path in self._directory.iterdir():
                if path.name.isdecimal() and int(path.name) not in whole and not self._manager.is_saving_in_progress():
                    raise ValueError(_broken(path, "its commit mark is missing"))
        return max(whole, default=None)

    def save(self, step: int, state: PyTree, host: dict[str, Any]) -> None:
        """Saves a step; returns once the arrays are copied to the host, so they may then be donated.

        Args:
          step: optimizer steps done; above every step saved so far.
          state: pytree of jax arrays whose top level has a `params` (a mapping, a NamedTuple or a dataclass).
          host: values of bytes or JSON, the same on every process. They are copied, and may change afterwards.
        """
        if self._manager is None or not self._writable:
            raise ValueError(f"{self._directory} is open for reading only; give `keep` to save")
        newest = self._manager.latest_step()
        if newest is not None and step <= newest:
            raise ValueError(f"step is {step}; expected more than {newest}, the newest step in {self._directory}")
        params, train = _split(state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{
                    PARAMS: ocp.args.PyTreeSave(params, save_args=self._chunks(params)),
                    TRAIN: ocp.args.PyTreeSave(train),
                    HOST: ocp.args.JsonSave(_encode(host)),
                }
            ),
        )

    def _chunks(self, params: PyTree) -> PyTree:
        if not self._sparing:
            return None
        return jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), params)

    def restore(self, step: int, abstract: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """The state and host values of a step, bit for bit.

        Args:
          abstract: `jax.ShapeDtypeStruct`s in the structure saved, with the shardings wanted now (they may differ
            from those saved); a leaf without a sharding goes to the first local device.

        Raises:
          ValueError: the step cannot be read, or holds another tree, shape or dtype.
          FileNotFoundError: there is no such step.
        """
        params, train = _split(abstract)
        read = {PARAMS: self._tree(step, PARAMS, params), TRAIN: self._tree(step, TRAIN, train)}
        leaves = dict(_named_leaves(read[PARAMS], (PARAMS,))) | dict(_named_leaves(read[TRAIN], ()))
        paths = [name for name, _ in _named_leaves(abstract, ())]
        state = jax.tree.unflatten(jax.tree.structure(abstract), [leaves[path] for path in paths])
        return state, _decode(self._read(step, HOST, ocp.args.JsonRestore()))

    def restore_params(self, step: int | None, abstract: PyTree) -> PyTree:
        """The policy's parameters alone; nothing of the optimizer is read.

        Args:
          step: None is the newest.
          abstract: as in `restore`, of the parameters.
        """
        if step is None:
            step = self.latest()
            if step is None:
                raise FileNotFoundError(f"{self._directory} holds no checkpoint; train this stage first")
        read = dict(_named_leaves(self._tree(step, PARAMS, _nested(_named_leaves(abstract, ()))), ()))
        leaves = [read[name] for name, _ in _named_leaves(abstract, ())]
        return jax.tree.unflatten(jax.tree.structure(abstract), leaves)

    def wait(self) -> None:
        """Returns when every save so far is whole on disk."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _tree(self, step: int, item: str, abstract: dict) -> dict:
        self._check_tree(step, item, abstract)
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        placed = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here), abstract
        )
        restore_args = ocp.checkpoint_utils.construct_restore_args(placed)
        return self._read(step, item, ocp.args.PyTreeRestore(item=placed, restore_args=restore_args))

    def _read(self, step: int, item: str, args: Any) -> Any:
        manager = self._step_manager(step)
        try:
            return manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
        except (jax.errors.JaxRuntimeError, MemoryError):
            raise  # the device or the host is out of memory: the files may be fine
        except Exception as error:  # storage layers raise many kinds; each means this item could not be read
            raise ValueError(_broken(self._directory / str(step), f"{item!r}: {_first_line(error)}")) from error

    def _step_manager(self, step: int) -> ocp.CheckpointManager:
        self.wait()
        if self._manager is None or not (self._directory / str(step)).exists():
            raise FileNotFoundError(f"{self._directory} holds no step {step}; its newest is {self.latest()}")
        return self._manager

    def _check_tree(self, step: int, item: str, abstract: dict) -> None:
        """Raises where the tree on disk is not the tree asked for; nothing is cast, cut or padded."""
        self._step_manager(step)
        directory = self._directory / str(step)
        try:
            _check_files(directory / item)
            metadata = ocp.PyTreeCheckpointHandler().metadata(directory / item).tree
            saved = {name: (tuple(m.shape), m.dtype) for name, m in _named_leaves(metadata, ())}
        except Exception as error:
            raise ValueError(_broken(directory, f"{item!r}: {_first_line(error)}")) from error
        wanted = {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in _named_leaves(abstract, ())}
        differing = [name for name in wanted | saved if wanted.get(name) != saved.get(name)]
        if differing:
            lines = [
                f"  {'/'.join(name)}: checkpoint {_shape(saved.get(name))}, config {_shape(wanted.get(name))}"
                for name in differing[:SHOWN]
            ]
            raise ValueError(
                f"{directory} is of another architecture than the config: {len(differing)} of {len(wanted | saved)} "
                f"arrays of {item!r} differ, first\n" + "\n".join(lines) + "\nUse the config it was saved with "
                "(config.json beside it) or another workdir."
            )


def write_json_atomic(path: str | os.PathLike, obj: Any) -> None:
    """Writes `obj` as JSON so that a reader, or a kill at any time, meets the old file or the new one whole."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(obj, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def quiet_orbax() -> None:
    """Keeps Orbax's progress notes off the terminal; its warnings of something lost still show."""
    logging.getLogger("absl").setLevel(logging.ERROR)


def _check_files(item: epath.Path) -> None:
    """Raises unless the item's JSON files parse and every byte range that its OCDBT index points to is there.

    Orbax reads arrays in threads, whose errors reach the terminal as pages of notes; this looks first, at no
    more than the index and the file sizes.
    """
    for path in (item / "_METADATA", item / "_sharding", *(item / "array_metadatas").glob("*")):
        if path.exists():
            json.loads(path.read_text())
    if not (item / "manifest.ocdbt").exists():  # a sparing save: files by array and chunk
        return _check_chunks(item)
    base = {"driver": "file", "path": f"{item}/"} if _is_local(item) else f"{item}/"
    store = ts.KvStore.open(base).result()
    nodes = [ts.ocdbt.dump(store).result()["versions"][-1]["root"]["location"]]
    while nodes:
        for entry in ts.ocdbt.dump(store, nodes.pop()).result()["entries"]:
            if "indirect_value" in entry:
                _, folder, file, offset, length = entry["indirect_value"].split(":")
                size = (item / (folder + file)).stat().length
                if size < int(offset) + int(length):
                    raise ValueError(f"{folder + file} is {size} bytes; expected {int(offset) + int(length)}")
            elif "location" in entry:
                nodes.append(entry["location"])


def _check_chunks(item: epath.Path) -> None:
    """Raises unless every chunk of every array has its file: a missing one would be read as zeros."""
    for path in item.glob("*/.zarray"):
        array = json.loads(path.read_text())
        chunks = math.prod(-(-size // part) for size, part in zip(array["shape"], array["chunks"], strict=True))
        found = sum(not file.name.startswith(".") for file in path.parent.iterdir())
        if found != chunks:
            raise ValueError(f"{path.parent.name} has {found} files of {chunks}")


def _named_leaves(tree: PyTree, prefix: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    """Leaves with their paths as strings, whatever containers the tree is made of."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(prefix + tuple(jax.tree_util.keystr((key,), simple=True) for key in path), leaf) for path, leaf in flat]


def _nested(leaves: list[tuple[tuple[str, ...], Any]]) -> dict:
    tree: dict = {}
    for path, leaf in leaves:
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def _split(state: PyTree) -> tuple[dict, dict]:
    """The parameters, and everything else, as nested dicts."""
    tree = _nested(_named_leaves(state, ()))
    if not isinstance(tree.get(PARAMS), dict) or len(tree) < 2:
        raise ValueError(f"state has the keys {sorted(tree)}; expected 'params' and at least one other, such as 'step'")
    return tree.pop(PARAMS), tree


def _encode(host: dict[str, Any]) -> dict:
    """As JSON has it. A copy: it is written while training goes on, and changes what it was made of."""
    values = {key: value for key, value in host.items() if not isinstance(value, bytes)}
    return {
        "bytes": {key: base64.b64encode(value).decode() for key, value in host.items() if isinstance(value, bytes)},
        "json": json.loads(json.dumps(values)),
    }


def _decode(stored: dict) -> dict[str, Any]:
    return {key: base64.b64decode(value) for key, value in stored["bytes"].items()} | stored["json"]


def _broken(directory: epath.Path, why: str) -> str:
    return (
        f"checkpoint {directory} cannot be read ({why}). It is damaged: delete this step's folder to fall back on the "
        "previous one"
    )


def _shape(entry: tuple | None) -> str:
    return "absent" if entry is None else f"{entry[1]}{list(entry[0])}"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"[:300]


def _is_local(path: Any) -> bool:
    return "://" not in str(path)
