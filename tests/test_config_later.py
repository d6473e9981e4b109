"""Keys that came later: folders made before them open and go on, a sweep's run keeps its name, a config names them."""

import dataclasses
import hashlib
import json

import pytest

from configs import r1_zero_tiny
from r1jax import sweep
from r1jax.config import as_before, checkpoint_config, stage_config, to_dict
from r1jax.config.build import LATER


def stage(**rollout):
    config = r1_zero_tiny.zero()
    config.rollout.update(rollout)
    return stage_config(config)


def old(tree: dict) -> dict:
    """`config.json` as it was before any of the keys."""
    keys = {name: {key: x for key, x in tree[name].items() if key not in later} for name, later in LATER.items()}
    return tree | keys


def test_a_folder_from_before_the_keys_opens_as_what_it_was():
    now = stage()
    assert old(to_dict(now)) == as_before(to_dict(now)) != to_dict(now)
    assert checkpoint_config(old(to_dict(now))) == now
    given = stage(ahead=1, precision="int8", slots=16)
    assert checkpoint_config(to_dict(given)) == given
    assert as_before(to_dict(given))["rollout"] == to_dict(given)["rollout"]


def test_a_config_must_name_them():
    with pytest.raises(ValueError, match=r"config\.rollout lacks ahead, precision, slots; every key must be given"):
        stage_config(old(to_dict(stage())))


def test_a_sweeps_run_keeps_its_name():
    """What it was called before there were such keys: the hash of the rest."""
    now = dataclasses.replace(stage(), seed=5)
    before = {key: value for key, value in old(to_dict(now)).items() if value is not None and key != "mesh"}
    before["rollout"].pop("mesh")
    before["optimizer"].pop("precision")
    assert sweep._key(now) == hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:12]
    others = [stage(ahead=1), stage(precision="bfloat16"), stage(slots=16), stage()]
    assert len({sweep._key(each) for each in others} | {sweep._key(now)}) == 5
