"""Checkpoints come back bit for bit, whole or not at all."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.training.checkpoint import Checkpoints, write_json_atomic


class State(NamedTuple):
    params: Any
    optimizer: Any
    reference: Any
    step: jax.Array


HOST = {"loader": bytes(range(256)), "progress": {"epoch": 1, "seen": [1, 2]}}


def make_state(seed: int) -> State:
    key = jax.random.key(seed)
    params = {
        "block": {"kernel_DF": jax.random.normal(key, (64, 128)), "bias_F": jnp.float32([0.1, -0.0, 1e-40, jnp.inf])},
        "embed_VD": jax.random.normal(key, (24, 8)).astype(jnp.bfloat16),
        "count": jnp.arange(8, dtype=jnp.int32) + seed,
    }
    floats = {"block": params["block"], "embed_VD": params["embed_VD"]}
    return State(params, optax.adamw(1e-3).init(floats), floats, jnp.int32(seed))


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def assert_same_bits(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        other = {str(p): x for p, x in jax.tree_util.tree_leaves_with_path(got)}[str(path)]
        assert other.dtype == leaf.dtype, path
        assert np.asarray(other).tobytes() == np.asarray(leaf).tobytes(), path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step), HOST)
    checkpoints.close()
    return tmp_path


def test_round_trip_is_bitwise_and_the_newest_are_kept(saved):
    checkpoints = Checkpoints(saved, keep=2)
    assert checkpoints.latest() == 3
    assert sorted(path.name for path in (saved / "checkpoints").iterdir()) == ["2", "3"]
    for step in (2, 3):
        state, host = checkpoints.restore(step, abstract(make_state(0)))
        assert_same_bits(state, make_state(step))
        assert host == HOST
    checkpoints.close()


def test_parameters_alone_need_no_optimizer(saved):
    shutil.rmtree(saved / "checkpoints/3/train")
    checkpoints = Checkpoints(saved, keep=None)
    assert_same_bits(checkpoints.restore_params(None, abstract(make_state(0).params)), make_state(3).params)
    assert_same_bits(checkpoints.restore_params(2, abstract(make_state(0).params)), make_state(2).params)
    checkpoints.close()


def test_shardings_may_change_between_save_and_restore(tmp_path):
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    by = {spec: NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), ("fsdp",), ("tensor", "fsdp"))}
    value_DF = jax.random.normal(jax.random.key(0), (8, 16))
    state = {"params": {"w_DF": jax.device_put(value_DF, by[("fsdp",)])}, "step": jax.device_put(jnp.int32(1), by[()])}
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, {})
    wanted = {
        "params": {"w_DF": jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=by[("tensor", "fsdp")])},
        "step": jax.ShapeDtypeStruct((), jnp.int32, sharding=by[()]),
    }
    got, _ = checkpoints.restore(1, wanted)
    checkpoints.close()
    assert got["params"]["w_DF"].sharding == by[("tensor", "fsdp")]
    np.testing.assert_array_equal(got["params"]["w_DF"], value_DF)


def test_buffers_may_be_donated_as_soon_as_save_returns(tmp_path):
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, keep=5)
    for step in range(1, 4):
        state = {"params": {"w": jnp.full((512, 512), float(step))}, "step": jnp.int32(step)}
        checkpoints.save(step, state, {})
        for _ in range(3):
            state = update(state)
    checkpoints.wait()
    for step in range(1, 4):
        got, _ = checkpoints.restore(step, abstract(state))
        np.testing.assert_array_equal(got["params"]["w"], np.full((512, 512), float(step), np.float32))
    checkpoints.close()


def test_host_values_may_change_as_soon_as_save_returns(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=5)
    waiting: list[list[int]] = [[1, 2]]
    for step in range(1, 6):
        checkpoints.save(step, make_state(step), {"waiting": waiting})
        waiting.append([step])
        waiting[0].append(step)
    checkpoints.wait()
    for step in range(1, 6):
        _, host = checkpoints.restore(step, abstract(make_state(step)))
        assert host["waiting"] == [[1, 2, *range(1, step)], *([n] for n in range(1, step))]
    checkpoints.close()


def test_steps_only_go_up_and_keep_is_checked(saved):
    checkpoints = Checkpoints(saved, keep=2)
    with pytest.raises(ValueError, match="step is 3; expected more than 3"):
        checkpoints.save(3, make_state(3), HOST)
    checkpoints.close()
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(saved, keep=0)
    reader = Checkpoints(saved, keep=None)
    with pytest.raises(ValueError, match="reading only"):
        reader.save(4, make_state(4), HOST)
    reader.close()


def test_nothing_there(tmp_path):
    reader = Checkpoints(tmp_path / "nowhere", keep=None)
    assert reader.latest() is None
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        reader.restore_params(None, abstract(make_state(0).params))
    assert not (tmp_path / "nowhere").exists()
    writer = Checkpoints(tmp_path / "fresh", keep=1)
    assert writer.latest() is None
    with pytest.raises(FileNotFoundError, match="no step 7"):
        writer.restore(7, abstract(make_state(0)))
    writer.close()


def test_half_written_step_is_ignored_and_a_reader_leaves_it(saved):
    half = saved / "checkpoints" / "4.orbax-checkpoint-tmp"
    shutil.copytree(saved / "checkpoints" / "3", half)
    (half / "params" / "_METADATA").unlink()
    reader = Checkpoints(saved, keep=None)
    assert reader.latest() == 3
    reader.close()
    assert half.exists(), "a reader must not clean up after a run that may still be writing"
    writer = Checkpoints(saved, keep=2)
    assert writer.latest() == 3
    writer.save(4, make_state(4), HOST)
    assert_same_bits(writer.restore(4, abstract(make_state(0)))[0], make_state(4))
    writer.close()
    assert sorted(path.name for path in (saved / "checkpoints").iterdir()) == ["3", "4"]


def damages(step_dir: Path) -> list[tuple[Path, str]]:
    files = sorted(path for path in step_dir.rglob("*") if path.is_file() and path.name != "_CHECKPOINT_METADATA")
    return [(path, how) for path in files for how in ("delete", "truncate")]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_file_is_an_error_or_does_no_harm(saved):
    """Whichever file is lost or cut short: the exact values, or an error naming the folder and the remedy."""
    step_dir, refused = saved / "checkpoints" / "3", 0
    for path, how in damages(step_dir):
        content = path.read_bytes()
        if how == "delete":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2])
        reader = Checkpoints(saved, keep=None)
        try:
            assert reader.latest() == 3
            state, host = reader.restore(3, abstract(make_state(0)))
        except ValueError as error:
            assert f"{step_dir} cannot be read" in str(error) and "delete this step" in str(error)
            refused += 1
        else:
            assert_same_bits(state, make_state(3))
            assert host == HOST
        finally:
            reader.close()
        path.write_bytes(content)
    assert refused >= 12  # both ways with: 2 metadata files, 2 manifests, 2 or more data files, the host's file


def test_falling_back_by_deleting_the_damaged_step(saved):
    shutil.rmtree(saved / "checkpoints/3/params")
    reader = Checkpoints(saved, keep=None)
    with pytest.raises(ValueError, match="delete this step"):
        reader.restore(3, abstract(make_state(0)))
    reader.close()
    shutil.rmtree(saved / "checkpoints/3")
    reader = Checkpoints(saved, keep=None)
    assert reader.latest() == 2
    assert_same_bits(reader.restore(2, abstract(make_state(0)))[0], make_state(2))
    reader.close()


def test_another_architecture_is_named(saved):
    wanted = abstract(make_state(0).params)
    wanted["block"]["kernel_DF"] = jax.ShapeDtypeStruct((64, 256), jnp.float32)
    wanted["embed_VD"] = jax.ShapeDtypeStruct((24, 8), jnp.float32)
    wanted["new"] = jax.ShapeDtypeStruct((3,), jnp.float32)
    del wanted["count"]
    reader = Checkpoints(saved, keep=None)
    with pytest.raises(ValueError) as caught:
        reader.restore_params(3, wanted)
    reader.close()
    message = str(caught.value)
    assert "another architecture" in message and "4 of 5 arrays" in message
    assert "block/kernel_DF: checkpoint float32[64, 128], config float32[64, 256]" in message
    assert "embed_VD: checkpoint bfloat16[24, 8], config float32[24, 8]" in message
    assert "new: checkpoint absent, config float32[3]" in message
    assert "count: checkpoint int32[8], config absent" in message


KILLED = """
    import sys, jax, jax.numpy as jnp
    from r1jax.training.checkpoint import Checkpoints
    checkpoints = Checkpoints(sys.argv[1], keep=2)
    state = {"params": {f"w{i}": jnp.zeros((256, 256)) for i in range(8)}, "step": jnp.int32(0)}
    step = checkpoints.latest() or 0
    while True:
        step += 1
        state = jax.tree.map(lambda x: x * 0 + step, state)
        checkpoints.save(step, state, {"step": step})
        print(step, flush=True)
"""


def test_sigkill_leaves_whole_steps_only(tmp_path):
    template = {"params": {f"w{i}": jnp.zeros((256, 256)) for i in range(8)}, "step": jnp.int32(0)}
    newest = 0
    for pause_s in (0.02, 0.11):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        )
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        reader = Checkpoints(tmp_path, keep=None)
        step = reader.latest()
        assert step is not None and step > newest
        state, host = reader.restore(step, abstract(template))
        assert host == {"step": step}
        assert all((np.asarray(leaf) == step).all() for leaf in jax.tree.leaves(state))
        reader.close()
        newest = step


SHARED = """
    import sys
    import jax, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec
    from r1jax import processes
    from r1jax.training.checkpoint import Checkpoints

    processes.start(processes.position(sys.argv[1], 4, int(sys.argv[2]), {}))
    mesh = jax.make_mesh((4,), ("fsdp",))
    value_DF = np.arange(96, dtype=np.float32).reshape(8, 12)
    params = {
        "split_DF": processes.place(NamedSharding(mesh, PartitionSpec("fsdp")), value_DF),
        "whole_F": processes.place(NamedSharding(mesh, PartitionSpec()), value_DF[1]),
    }
    checkpoints = Checkpoints(sys.argv[3], keep=2)
    for step in (1, 2):
        placed = processes.place(NamedSharding(mesh, PartitionSpec()), np.int32(step))
        checkpoints.save(step, {"params": params, "step": placed}, {"loader": b"state", "step": step})
    checkpoints.close()
    again = Checkpoints(sys.argv[3], keep=2)
    assert again.latest() == 2
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
    np.testing.assert_array_equal(processes.fetch(again.restore_params(None, abstract)["split_DF"]), value_DF)
    again.close()
"""


@pytest.mark.slow
def test_what_four_processes_save_any_number_of_devices_reads(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "XLA_FLAGS": ""}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SHARED), address, str(here), str(tmp_path)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
        )
        for here in range(4)
    ]  # fmt: skip
    for process in running:
        said, _ = process.communicate()
        assert process.returncode == 0, said
    assert len(list((tmp_path / "checkpoints" / "2" / "params").glob("ocdbt.process_*"))) == 4
    value_DF = np.arange(96, dtype=np.float32).reshape(8, 12)
    for count, spec in ((1, ()), (2, ("fsdp",)), (8, (None, None)), (8, ("fsdp",))):
        mesh = jax.make_mesh((count,), ("fsdp",), devices=jax.devices()[:count])
        by = NamedSharding(mesh, PartitionSpec(*spec))
        whole = NamedSharding(mesh, PartitionSpec())
        wanted = {
            "params": {
                "split_DF": jax.ShapeDtypeStruct((8, 12), jnp.float32, sharding=by),
                "whole_F": jax.ShapeDtypeStruct((12,), jnp.float32, sharding=whole),
            },
            "step": jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
        }
        reader = Checkpoints(tmp_path, keep=None)
        state, host = reader.restore(2, wanted)
        reader.close()
        assert state["params"]["split_DF"].sharding == by and host == {"loader": b"state", "step": 2}
        np.testing.assert_array_equal(state["params"]["split_DF"], value_DF)
        np.testing.assert_array_equal(state["params"]["whole_F"], value_DF[1])


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "config.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json_atomic(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    write_json_atomic(path, {"a": "ñ"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "ñ"}
