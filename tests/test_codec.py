"""Configurations and states as data: the same again, and nothing from outside."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from segue import recipes, tasks
from segue.errors import CheckpointError
from segue.phases import Block, PerEpisode, Phase, Warmup
from segue.replays import Symmetric
from segue.runs import codec
from segue.runs.files import pack_state, unpack_state
from segue.store import Affine
from segue.transitions import Carry, Reset


def through_json(value):
    return codec.decode(json.loads(json.dumps(codec.encode(value))))


@pytest.mark.parametrize("name", zoo.ZOO)
def test_learners_come_back_equal(name):
    learner = zoo.ZOO[name]
    assert through_json(learner) == learner
    assert hash(through_json(learner)) == hash(learner)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_states_come_back_bit_for_bit(name, tmp_path):
    learner = zoo.ZOO[name]
    state = learner.init(jax.random.key(0), zoo.SPEC)
    again = unpack_state(pack_state(state), tmp_path)
    assert zoo.same(again, state)
    assert [x.dtype for x in jax.tree.leaves(again)] == [x.dtype for x in jax.tree.leaves(state)]
    assert pack_state(again) == pack_state(state)


@pytest.mark.parametrize("method", recipes.RECIPES)
def test_phases_of_every_method_come_back_equal(method):
    phases = recipes.phases_of(method, tasks.get("point-wall"))
    assert tuple(through_json(p) for p in phases) == phases


def test_phases_of_ones_own():
    phase = Phase(
        "online",
        zoo.redq,
        30,
        True,
        source="offline",
        transition=Reset(Carry(moments=False), nets=("critic",)),
        replay=Symmetric(0.25),
        reward=Affine(2.0, -1.0),
        updates=Block(100, 50, 200),
        warmup=Warmup(5, "uniform"),
        refit_every=7,
    )
    assert through_json(phase) == phase
    assert through_json(PerEpisode(3, 0.5)) == PerEpisode(3, 0.5)


def test_plain_values_of_every_kind(tmp_path):
    value = {
        "a": (1, 2.5, "text", None, True, ()),
        "host": np.arange(6, dtype=np.int64).reshape(2, 3)[:, ::2],
        "scalar": np.float32(0.1),
        "device": jnp.arange(3.0) * -jnp.inf,
        "empty": np.zeros((0, 4), np.float32),
        "flag": np.array([True, False]),
    }
    again = unpack_state(pack_state(value), tmp_path)
    assert again.keys() == value.keys()
    assert again["a"] == value["a"]
    assert type(again["scalar"]) is np.float32
    for name in ("host", "scalar", "device", "empty", "flag"):
        np.testing.assert_array_equal(again[name], value[name])
        assert again[name].dtype == value[name].dtype
        assert isinstance(again[name], jax.Array) == isinstance(value[name], jax.Array)


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "subprocess:Popen",
        "builtins:eval",
        "builtins:object",
        "segue.runs.run:subprocess",
        "segue.phases:Path",
        "segue.phases:run",
        "segue.nets:jax",
        "segue.learners.sac:dataclass",
        "segue.learners.nothing:SAC",
        "segue.learners.sac:Nothing",
        "segue.learners.sac:",
        "antigravity:Class",
        "optax:adam",
        ":",
        "",
    ],
)
def test_classes_from_elsewhere_are_refused(name, tmp_path):
    loaded = set(sys.modules)
    with pytest.raises(CheckpointError, match="names the class"):
        codec.class_of(name)
    with pytest.raises(CheckpointError, match="names the class"):
        codec.decode({"@": name, "args": ["true"]})
    with pytest.raises(CheckpointError, match="names the class"):
        codec.unflatten({"class": name, "fields": {"args": {"value": "true"}}}, {})
    assert "antigravity" not in set(sys.modules) - loaded


def test_unknown_fields_are_refused_by_name():
    with pytest.raises(CheckpointError, match=r"segue.learners.sac:SAC has no field \['speed'\]"):
        codec.decode(codec.encode(zoo.sac) | {"speed": 3})


def test_what_is_no_data_is_refused():
    with pytest.raises(TypeError, match="not function"):
        codec.encode(through_json)
    with pytest.raises(TypeError, match=r"state\.f: a state holds arrays"):
        codec.flatten({"f": print}, "state", {})


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", b"\x05\0\0\0\0\0\0\0{}"])
def test_bytes_that_are_no_state(data, tmp_path):
    with pytest.raises(CheckpointError, match="not a state that segue wrote"):
        unpack_state(data, tmp_path / "file")


def test_leaves_name_every_number_once():
    found = dict(codec.leaves(codec.encode(zoo.ZOO["pex(sac)"])))
    assert found["base.lr"] == zoo.sac.lr
    assert found["base.hidden"] == [16, 16]
    assert found["@"] == "segue.learners.pex:PEX"


def test_equal_values_have_equal_json():
    assert codec.dumps({"b": 1, "a": (1, 2)}) == codec.dumps({"a": [1, 2], "b": 1}) == '{"a":[1,2],"b":1}'
