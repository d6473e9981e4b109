"""How processes find each other, and what two of them tell each other."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from r1jax import processes
from r1jax.processes import BY_JAX, Position, position

ROOT = Path(__file__).resolve().parent.parent
LAUNCHER = {"JAX_COORDINATOR_ADDRESS": "10.0.0.2:8476", "JAX_NUM_PROCESSES": "4"}
SLURM = {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (LAUNCHER | {"JAX_PROCESS_ID": "3"}, Position("10.0.0.2:8476", 4, 3)),
        (LAUNCHER | {"JOB_COMPLETION_INDEX": "2"}, Position("10.0.0.2:8476", 4, 2)),
        (LAUNCHER | SLURM | {"JAX_PROCESS_ID": "0"}, Position("10.0.0.2:8476", 4, 0)),
        (SLURM, BY_JAX),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        ({"SLURM_NTASKS": "2"}, None),  # an allocation, but no step of it
    ],
)
def test_the_environment_says_where_a_process_stands(environment, expected, monkeypatch):
    monkeypatch.setattr(processes, "CHIPS", ())
    assert position(None, None, None, environment) == expected


def test_a_host_with_chips_and_their_library_asks_jax(monkeypatch, tmp_path):
    (chip := tmp_path / "accel0").touch()
    monkeypatch.setattr(processes, "CHIPS", (str(chip),))
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: name == "libtpu" or None)
    assert position(None, None, None, {}) == BY_JAX
    for environment in ({"JAX_PLATFORMS": "cpu"}, {"TPU_SKIP_MDS_QUERY": "1"}):
        assert position(None, None, None, environment) is None
    chip.unlink()
    assert position(None, None, None, {}) is None


def test_a_cluster_that_jax_does_not_find_is_named(monkeypatch):
    def fails(**limits):
        assert limits["heartbeat_timeout_seconds"] < 60
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(processes.jax.distributed, "initialize", fails)
    monkeypatch.setattr(processes.jax.config, "update", lambda *_: None)
    with pytest.raises(ValueError, match=r"not found \(coordinator_address should be.*--processes=1 --process=0"):
        processes.start(BY_JAX)


def test_flags_come_before_the_environment():
    assert position("h:1", 2, 1, LAUNCHER | SLURM) == Position("h:1", 2, 1)


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        (("h:1", None, 0), {}, "--processes is not given"),
        (("h", 2, 0), {}, "coordinator is 'h'; expected HOST:PORT"),
        (("h:1", 2, 2), {}, r"process is 2 of 2 processes; expected 0\.\.1"),
        ((None, None, None), LAUNCHER, "JAX_PROCESS_ID is None where JAX_COORDINATOR_ADDRESS is set"),
        ((None, None, None), LAUNCHER | {"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID is 'one'"),
    ],
)
def test_half_a_position_is_refused(given, environment, message):
    with pytest.raises(ValueError, match=message):
        position(*given, environment)


@pytest.mark.parametrize(("size", "count"), [(8, 4), (7, 4), (2, 4), (0, 3), (5, 1)])
def test_shares_in_order_are_the_whole_and_differ_by_one(size, count, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: count)
    parts = []
    for index in range(count):
        monkeypatch.setattr(processes.jax, "process_index", lambda: index)  # noqa: B023
        parts.append(list(range(size))[processes.share(size)])
    assert [item for part in parts for item in part] == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_everything_is_as_if_there_were_no_processes():
    assert processes.count() == 1 and processes.is_first()
    assert processes.gather([1]) == [[1]] and processes.share(3) == slice(0, 3)
    with pytest.raises(KeyError):
        processes.agreed(lambda: {}["a"])


def test_a_first_notice_is_noted_and_a_second_kills(monkeypatch):
    monkeypatch.setattr(processes, "_notice", processes.threading.Event())
    before = signal.getsignal(signal.SIGTERM)
    try:
        processes.heed_notices()
        assert not processes.leaving()
        os.kill(os.getpid(), signal.SIGTERM)
        assert processes.leaving()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


TELL = """
    import os, sys
    import jax, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec
    from r1jax import processes

    here = int(sys.argv[2])
    processes.start(processes.position(sys.argv[1], 2, here, {}))
    assert (processes.count(), processes.is_first()) == (2, here == 0)
    assert processes.gather({"from": here, "more": "x" * 99 * here}) == [
        {"from": 0, "more": ""}, {"from": 1, "more": "x" * 99}
    ]
    assert processes.agreed(lambda: {"text": b"of the first", "here": here}) == {"text": b"of the first", "here": 0}
    try:
        processes.agreed(lambda: [][here])
        raise AssertionError("the first one's error reaches both")
    except IndexError:
        pass

    # Every process holds the batch; its devices get their rows of it, and it comes back as it was.
    mesh = jax.make_mesh((4,), ("data",))
    whole_BL = np.arange(24, dtype=np.int32).reshape(8, 3)
    split = NamedSharding(mesh, PartitionSpec("data"))
    placed_BL = processes.place(split, whole_BL)
    shards = [shard.data for shard in placed_BL.addressable_shards]
    assert [x.shape for x in shards] == [(2, 3)] * 2
    np.testing.assert_array_equal(np.concatenate(shards), whole_BL[4 * here : 4 * here + 4])
    total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))(placed_BL)
    got_BL, got = processes.fetch((placed_BL, total))
    np.testing.assert_array_equal(got_BL, whole_BL)
    assert got == whole_BL.sum()

    # A notice to one is a notice to all.
    processes.heed_notices()
    assert not processes.leaving()
    if here == 1:
        os.kill(os.getpid(), 15)
    assert processes.leaving()
    print("told", here)
"""


def test_two_processes_tell_each_other():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    running = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(TELL), address, str(here)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for here in range(2)
    ]  # fmt: skip
    for here, process in enumerate(running):
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0 and f"told {here}" in said, said
