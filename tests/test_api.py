"""`segue.train`: from a dataset to a fine-tuned policy in one call."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from test_bad_input import BATCH
from test_resume import fingerprint, two_phases

import segue
import segue.api
import segue.runs.run as runs
from segue.errors import ConfigError
from segue.phases import Settings
from segue.tasks import get, write_npz

PHASES = two_phases(zoo.iql, offline=18, online=40)
SMALL = {f"phases.{i}.{k}": v for i in (0, 1) for k, v in (("learner.hidden", [16, 16]), ("batch_size", BATCH))}
NUMBERS = {"offline_steps": 12, "online_steps": 30, "eval_every": 1000, "eval_episodes": 1}


def test_one_call(tmp_path):
    seen = []
    result = segue.train("iql", task="point-wall", set=SMALL, progress=seen.append, **NUMBERS)
    assert result.learner == result.phases[-1].learner
    assert result.learner.hidden == (16, 16)
    kinds = {row["kind"] for row in result.history}
    assert kinds == {"handover", "train", "evaluation", "episode"}
    assert seen[-1].state.phase == 2
    assert [r for p in seen for r in p.rows] == result.history

    choose = result.policy()
    for obs in ([0.0, 0.5], [10.0, -10.0]):
        action = choose(np.array(obs))
        assert action.shape == (2,)
        assert (np.abs(action) <= 1).all()
    env, choose = result.task.make_env(), result.policy()
    obs, return_ = env.reset(0), 0.0
    for _ in range(150):
        step = env.step(choose(obs))
        obs, return_ = step.obs, return_ + step.reward
        if step.terminal or step.timeout:
            break
    assert step.terminal or step.timeout


def test_a_negative_budget_is_named():
    with pytest.raises(ConfigError, match="offline_steps must be at least 0, not -5"):
        segue.train("iql", task="point-wall", offline_steps=-5)


def test_pieces_of_a_long_refit_are_shown_and_not_kept():
    phases, seen = (two_phases(zoo.mopo)[0],), []
    result = segue.train(phases, task="point-wall", eval_episodes=0, progress=seen.append)
    assert "progress" in {row["kind"] for p in seen for row in p.rows}
    assert {row["kind"] for row in result.history} == {"handover", "refit", "train"}


def test_the_policy_of_a_learner_that_asks_for_a_return():
    """It subtracts what it is told that the task paid, as an evaluation does."""
    key, learner = jax.random.key(0), zoo.dt
    state = learner.init(key, zoo.SPEC)
    choose = segue.api.Result(learner, state, [], get("point-wall"), ()).policy()
    memory, rng = learner.begin(state, key, True), np.random.default_rng(0)
    for reward in (0.0, 1.0, 0.5):
        obs = rng.normal(size=3).astype(np.float32)
        expected, memory, _ = learner.act(state, memory, jnp.asarray(obs), jnp.float32(reward), key, True)
        np.testing.assert_allclose(choose(obs, reward), expected, rtol=1e-5, atol=1e-6)
    assert float(memory.return_to_go[-1]) == learner.target_return - 1.5


def test_a_directory_holds_the_same_as_the_memory(tmp_path):
    in_memory = segue.train(PHASES, task="point-wall", eval_episodes=1, eval_every=1000)
    kept = segue.train(PHASES, task="point-wall", eval_episodes=1, eval_every=1000, out=tmp_path / "run")
    assert zoo.same(in_memory.state, kept.state)
    strip = lambda rows: [{k: v for k, v in row.items() if k not in ("wall", "seconds")} for row in rows]
    assert strip(in_memory.history) == strip(kept.history)

    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = segue.train(PHASES, task="point-wall", eval_episodes=1, eval_every=1000, out=tmp_path / "run")
    assert zoo.same(again.state, kept.state)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match="holds another run"):
        segue.train(PHASES, task="point-wall", seed=1, eval_episodes=1, eval_every=1000, out=tmp_path / "run")


def test_a_stopped_call_goes_on_when_called_again(tmp_path, monkeypatch):
    from test_resume import StopAt

    kwargs = {"task": "point-wall", "eval_episodes": 1, "eval_every": 1000}
    whole = segue.train(PHASES, **kwargs)
    with monkeypatch.context() as m:
        m.setattr(runs, "Stop", lambda: StopAt(30))
        with pytest.raises(KeyboardInterrupt, match="stopped and saved"):
            segue.train(PHASES, out=tmp_path, **kwargs)
    assert zoo.same(segue.train(PHASES, out=tmp_path, **kwargs).state, whole.state)


def test_ones_own_environment_and_file(tmp_path):
    file = tmp_path / "data.npz"
    write_npz(get("point-wall").dataset, file)
    result = segue.train("iql", file, "test_bad_input:Faulty", set=SMALL, **NUMBERS)
    assert result.task.family == "custom"
    assert result.task.dataset.hash == get("point-wall").dataset.hash
    assert any(row["kind"] == "episode" for row in result.history)
    offline = segue.train(
        "iql",
        file,
        set={k: v for k, v in SMALL.items() if ".0." in k},
        offline_steps=12,
        online_steps=0,
        eval_episodes=0,
    )
    assert len(offline.phases) == 1
    assert offline.policy()(np.zeros(2)).shape == (2,)


def test_a_run_from_anothers_pretraining_is_the_whole_run_bit_for_bit(tmp_path):
    settings = Settings(eval_every=1000, eval_episodes=1, log_every=25)
    config = lambda phases, seed=3: runs.make_config("m", get("point-wall"), phases, seed, settings, [])
    quiet = {"say": lambda _: None}
    runs.create(tmp_path / "whole", config(PHASES))
    whole, _ = runs.execute(tmp_path / "whole", **quiet)
    runs.create(tmp_path / "behind", config(PHASES), source=tmp_path / "whole")
    behind, finished = runs.execute(tmp_path / "behind", **quiet)
    assert finished
    assert fingerprint(tmp_path / "behind", behind) == fingerprint(tmp_path / "whole", whole)

    other = two_phases(zoo.iql, offline=18, online=30)  # another method behind the same pre-training
    runs.create(tmp_path / "other", config(other), source=tmp_path / "whole")
    assert runs.execute(tmp_path / "other", **quiet)[1]
    rows = runs.read_json(tmp_path / "other" / "config.json")["from"]
    assert rows["phases"] == 1


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({}, "takes a task, or an env"),
        ({"task": "point-wall", "env": "Pendulum-v1"}, "either a task, or env and dataset"),
        ({"task": "point-wal"}, "did you mean 'point-wall"),
        ({"task": "point-wall", "set": {"phases.0.learner.bata": 1}}, "did you mean 'beta'"),
        ({"task": "point-wall", "eval_every": 0}, "eval_every"),
    ],
)
def test_what_cannot_be_is_refused(kwargs, words):
    with pytest.raises(ConfigError, match=words):
        segue.train("iql", **kwargs)


def test_only_what_the_package_says_is_there():
    assert callable(segue.train)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        segue.trian  # noqa: B018
