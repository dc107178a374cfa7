"""The loop: what is due when, schedules, phases that name a source, and where rewards and bonuses go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from zoo import HIDDEN

from segue.errors import ConfigError, HandoverError
from segue.learners import BC, SAC, TD3
from segue.phases import (
    Block,
    PerEpisode,
    PerStep,
    Phase,
    RunState,
    Settings,
    Warmup,
    phase_key,
    run,
    start,
)
from segue.replays import Symmetric, Uniform
from segue.store import Affine
from segue.transitions import Carry, CarryPolicy
from segue.types import Learner, Spec, Trained

SPEC = Spec(obs_dim=2, act_dim=1)
ONLINE = Symmetric(0.0)


class Corridor:
    """Seven steps to a terminal end, or five to a time limit in every second episode; reward 1 a step."""

    def __init__(self) -> None:
        self.episodes, self.seeds, self.actions = 0, [], []

    def reset(self, seed: int) -> np.ndarray:
        self.seeds.append(seed)
        self.episodes += 1
        self.t = 0
        return np.array([0.0, self.episodes], np.float32)

    def step(self, action: np.ndarray) -> Any:
        self.actions.append(float(action[0]))
        self.t += 1
        obs = np.array([self.t, self.episodes], np.float32)
        cut = self.episodes % 2 == 0 and self.t == 5
        return SimpleNamespace(obs=obs, reward=1.0, terminal=self.t == 7, timeout=cut, info={})

    def close(self) -> None:
        pass


class Task:
    spec = SPEC

    def __init__(self) -> None:
        self.envs: list[Corridor] = []

    def make_env(self) -> Corridor:
        self.envs.append(Corridor())
        return self.envs[-1]

    def score(self, return_: float, success: float | None = None) -> float:
        return 10 * return_


def dataset(n: int = 40) -> Any:
    rng = np.random.default_rng(0)
    end = np.arange(n) % 10 == 9
    return SimpleNamespace(
        obs=rng.normal(size=(n, 2)).astype(np.float32),
        action=rng.uniform(-1, 1, (n, 1)).astype(np.float32),
        reward=np.ones(n, np.float32),
        next_obs=rng.normal(size=(n, 2)).astype(np.float32),
        terminal=end,
        timeout=np.zeros(n, bool),
        step=np.arange(n) % 10,
    )


sac = SAC(hidden=HIDDEN)


def follow(
    *phases: Phase, data: Any = None, settings: Settings | None = None, seed: int = 0
) -> tuple[RunState, list[dict[str, Any]], Task, list[RunState]]:
    task = Task()
    first, fixed = start(seed, phases, SPEC, data)
    rows, states = [], []
    settings = settings or Settings(eval_every=10, eval_episodes=0, log_every=10)
    for state, more in run(phases, task, first, fixed, settings):
        rows += more
        states.append(state)
    return state, rows, task, states


def online(learner: Any = sac, steps: int = 30, **fields: Any) -> Phase:
    return Phase("online", learner, steps, online=True, replay=ONLINE, batch_size=8, **fields)


def last_calls(states: list[RunState]) -> int:
    return max(s.calls for s in states)


# ---------------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("phase", "calls"),
    [
        (online(), 30),
        (online(updates=PerStep(0.5)), 15),
        (online(updates=PerStep(3)), 90),
        (online(warmup=Warmup(12)), 18),
        (online(updates=PerEpisode(n=4)), 4 * 5),  # lengths 7, 5, 7, 5, 6 (cut by the phase's end)
        (online(updates=PerEpisode(per_step=1.0)), 30),
        (online(updates=Block(collect=10, updates=40, first=20)), 80),  # longer than one program holds
        (online(updates=Block(collect=10, updates=4, opening=5)), 28),
        (online(updates=Block(collect=10, updates=4, first=15, opening=5)), 24),
        (online(TD3(hidden=HIDDEN)), 15),  # two batches an update
        (online(replace(sac, critic_updates=3), updates=PerStep(3)), 30),
    ],
)
def test_schedules_make_as_many_updates_as_they_say(phase: Phase, calls: int) -> None:
    state, _, _, states = follow(phase)
    assert last_calls(states) == calls
    assert state.env_steps == 30


def test_offline_steps_count_batches() -> None:
    phase = Phase("offline", TD3(hidden=HIDDEN), 40, batch_size=8)
    assert last_calls(follow(phase, data=dataset())[3]) == 20
    with pytest.raises(ConfigError, match="takes 2 batches an update"):
        Phase("offline", TD3(hidden=HIDDEN), 41)


def test_uniform_warm_up_acts_without_the_policy() -> None:
    phase = online(warmup=Warmup(20, "uniform"))
    actions = follow(phase)[2].envs[0].actions
    assert np.std(actions[:20]) > 0.3
    assert len(set(actions[:20])) == 20
    with pytest.raises(ConfigError, match="'policy' or 'uniform'"):
        Warmup(5, "random")


# ----------------------------------------------------------------------------------------------- episodes and the store


def test_rows_episodes_and_return_to_go() -> None:
    state, rows, _, _ = follow(online(reward=Affine(2.0, 0.0)))
    ring = state.ring
    layout = start(0, (online(),), SPEC, None)[1].layout
    columns = {k: np.asarray(v) for k, v in layout.columns(ring.rows).items()}
    assert state.episodes.length.tolist() == [7, 5, 7, 5, 6]
    assert np.flatnonzero(columns["terminal"]).tolist() == [6, 18]
    assert np.flatnonzero(columns["timeout"]).tolist() == [11, 23, 29]  # the last by the phase's end
    assert np.all(columns["reward"] == 1)  # the task's rewards, whatever the phase's convention
    assert columns["step"].tolist() == [*range(7), *range(5), *range(7), *range(5), *range(6)]
    np.testing.assert_allclose(np.asarray(ring.mc_return)[4:7], [2 * (1 + 0.99 + 0.99**2), 2 * 1.99, 2.0], rtol=1e-6)
    assert np.isfinite(np.asarray(ring.mc_return)).all()
    episodes = [r for r in rows if r["kind"] == "episode"]
    assert [r["return"] for r in episodes] == [7, 5, 7, 5, 6]
    assert [r["cut"] for r in episodes] == [False, False, False, False, True]
    assert [r["score"] for r in episodes] == [70, 50, 70, 50, 60]


def test_the_action_that_is_stored_is_the_action_that_was_taken() -> None:
    state, _, task, _ = follow(online())
    np.testing.assert_array_equal(np.asarray(state.ring.rows)[:, 2], np.float32(task.envs[0].actions))


@dataclass(frozen=True)
class Ten:
    """A bonus of ten that counts what it was shown."""

    def init(self, key: Any, spec: Any, store: Any) -> Any:
        return jax.numpy.zeros(())

    def visit(self, bstate: Any, row: Any) -> Any:
        return bstate + 1, {"bonus/visits": bstate + 1}

    def update(self, bstate: Any, batch: Any, key: Any) -> Any:
        return bstate, {"bonus/reward_seen": batch.reward.mean()}

    def relabel(self, bstate: Any, batch: Any) -> Any:
        return batch._replace(reward=batch.reward + 10)


def test_a_bonus_changes_batches_and_never_the_store() -> None:
    plain, with_bonus = (follow(online(bonus=b)) if b else follow(online()) for b in (None, Ten()))
    state, rows = with_bonus[0], with_bonus[1]
    c = start(0, (online(),), SPEC, None)[1].layout.columns(state.ring.rows)
    assert np.all(np.asarray(c["reward"]) == 1)
    assert float(state.parts.bonus) == 30
    train = [r["metrics"] for r in rows if r["kind"] == "train"]
    assert all(m["bonus/reward_seen"] == 1 for m in train)
    assert train[-1]["critic/q"] > [r["metrics"] for r in plain[1] if r["kind"] == "train"][-1]["critic/q"]


# ---------------------------------------------------------------------------------------------------------- what is due


def test_rows_and_evaluations_come_where_they_are_due() -> None:
    offline = Phase("offline", BC(hidden=HIDDEN, head="squashed"), 50, batch_size=8)
    second = replace(online(steps=24), transition=CarryPolicy())
    _, rows, task, _ = follow(offline, second, data=dataset(), settings=Settings(20, 1, log_every=10))
    at = lambda phase, kind, **k: [
        r["step"] for r in rows if r["kind"] == kind and r["phase"] == phase and all(r[a] == b for a, b in k.items())
    ]
    assert at("offline", "train") == [10, 20, 30, 40, 50]
    assert at("offline", "evaluation", mode="greedy") == [20, 40, 50]
    assert at("offline", "evaluation", mode="acting") == [50]
    assert at("online", "handover") == [0]
    assert at("online", "evaluation", mode="greedy") == [0, 20, 24]
    assert at("online", "evaluation", mode="acting") == [0, 24]
    assert at("online", "train") == [10, 20, 24]
    evaluation, training = task.envs  # made when first needed: the evaluation's before the training's
    assert not set(evaluation.seeds) & set(training.seeds)
    assert len(set(training.seeds)) == len(training.seeds)


def test_evaluation_takes_no_random_number_from_training() -> None:
    often, never = (follow(online(), settings=Settings(5, n, log_every=10))[0] for n in (2, 0))
    np.testing.assert_array_equal(often.ring.rows, never.ring.rows)
    for a, b in zip(jax.tree.leaves(often.learner), jax.tree.leaves(never.learner), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_length_of_a_stretch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    phase = Phase("offline", BC(hidden=HIDDEN), 100, batch_size=8)
    settings = Settings(100, 0, log_every=100)
    whole_, rows, *_ = follow(phase, data=dataset(), settings=settings)
    monkeypatch.setattr("segue.phases._SECONDS", {})
    short, rows_, *_ = follow(phase, data=dataset(), settings=replace(settings, piece_seconds=1e-9))
    for a, b in zip(jax.tree.leaves(whole_.learner), jax.tree.leaves(short.learner), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [r.get("metrics") for r in rows] == [r.get("metrics") for r in rows_]


def test_a_source_names_any_earlier_phase() -> None:
    learner = BC(hidden=HIDDEN)
    first = Phase("first", learner, 20, batch_size=8)
    second = Phase("second", learner, 20, batch_size=8)
    third = Phase("third", learner, 20, batch_size=8, source="first", transition=Carry())
    _, _, _, states = follow(first, second, third, data=dataset())
    end_of_first = next(s for s in states if s.phase == 1 and not s.entered).snapshots["first"]
    entered = next(s for s in states if s.phase == 2 and s.entered)
    for a, b in zip(jax.tree.leaves(entered.learner.actor.net), jax.tree.leaves(end_of_first.actor.net), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ConfigError, match="'later' is no earlier phase"):
        start(0, (first, replace(second, source="later")), SPEC, dataset())


def test_what_cannot_run_is_refused_at_the_start() -> None:
    phase = Phase("offline", sac, 10, batch_size=8)
    with pytest.raises(ConfigError, match="the task has none"):
        start(0, (phase,), SPEC, None)
    with pytest.raises(ConfigError, match="different names"):
        start(0, (phase, phase), SPEC, dataset())
    with pytest.raises(ConfigError, match="asks for online rows"):
        follow(replace(phase, replay=ONLINE), data=dataset())


def test_streams_differ() -> None:
    keys = {tuple(jax.random.key_data(phase_key(s, p, k)).tolist()) for s in (0, 1) for p in (0, 1) for k in range(7)}
    assert len(keys) == 28
    a, b = (follow(online(), seed=s)[0] for s in (0, 1))
    assert not np.array_equal(a.ring.rows, b.ring.rows)


def test_uniform_replay_takes_dataset_and_ring() -> None:
    rows = follow(replace(online(), replay=Uniform()), data=dataset())[1]
    shares = [r["metrics"]["replay/offline"] for r in rows if r["kind"] == "train"]
    assert shares[0] > shares[-1] > 40 / 70 - 0.1


def test_returns_of_the_batch_leave_out_open_episodes() -> None:
    myopic = replace(sac, discount=0.0)  # the return-to-go is the row's reward
    phase = Phase("online", myopic, 30, True, replay=Symmetric(0.5), batch_size=8, reward=Affine(2.0, 1.0))
    rows = [r["metrics"]["replay/return"] for r in follow(phase, data=dataset())[1] if r["kind"] == "train"]
    assert rows == [3.0, 3.0, 3.0]


@dataclass(frozen=True)
class Watcher(Learner):
    """Learns nothing; its metric is the share of rows whose episode is open."""

    remembers: bool = False

    def init(self, key, spec):
        return Trained(jax.numpy.zeros(1), ())

    def update(self, state, batch, key):
        return state, {"open": jax.numpy.isneginf(batch.mc_return).mean()}

    def policy(self, state, obs, key, greedy=False):
        return jax.numpy.zeros(1)

    def begin(self, state, key, greedy):
        return jax.numpy.zeros(()) if self.remembers else ()


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: PerStep(-1), r"PerStep\.n"),
        (lambda: PerStep(float("inf")), r"PerStep\.n"),
        (lambda: PerEpisode(n=-1), "PerEpisode"),
        (lambda: PerEpisode(per_step=float("nan")), "PerEpisode"),
        (lambda: Block(collect=0), r"collect \(0\)"),
        (lambda: Block(updates=-1), r"updates \(-1\)"),
        (lambda: Warmup(-1), r"Warmup\.steps"),
    ],
)
def test_senseless_schedules_are_refused(make, names):
    with pytest.raises(ConfigError, match=names):
        make()


def test_slow_steps_are_yielded_one_by_one():
    """A run is saved between two yields: an environment that takes its time must not put that off."""
    _, _, _, states = follow(online(), settings=Settings(eval_episodes=0, log_every=1000, piece_seconds=0.0))
    assert {s.step for s in states} == set(range(31))


def test_what_does_not_hand_over_is_refused_before_any_work():
    phases = (
        Phase("offline", sac, 10**6),
        Phase("online", replace(sac, hidden=(4,)), 10, online=True, transition=Carry()),
    )
    with pytest.raises(HandoverError):
        start(0, phases, SPEC, dataset())


class Counter(Watcher):
    """Its action is a tenth of the steps that it has taken in the episode."""

    def begin(self, state, key, greedy):
        return jax.numpy.zeros(())

    def act(self, state, memory, obs, last_reward, key, greedy):
        return jax.numpy.full(1, 0.1) * memory, memory + 1, {}


@pytest.mark.parametrize("learner", [sac, TD3(hidden=HIDDEN)])
@pytest.mark.parametrize("updates", [PerEpisode(n=4), PerEpisode(per_step=1.0), PerEpisode(n=40), Block(collect=4)])
def test_the_schedule_of_updates_does_not_change_how_a_learner_acts(learner, updates):
    """While nothing is learnt yet, the actions are those of updates at every step."""
    quiet = Settings(eval_episodes=0)
    actions = []
    for schedule in (PerStep(), updates):
        phase = replace(online(learner, updates=schedule), warmup=Warmup(30))
        _, _, task, _ = follow(phase, settings=quiet)
        actions.append(task.envs[0].actions)
    assert actions[0] == actions[1]
    assert len(actions[0]) == len(set(actions[0])) == 30


@pytest.mark.parametrize("updates", [PerStep(), PerEpisode(n=1), Block(collect=4, updates=2)])
def test_a_memory_grows_with_every_step(updates):
    """A learner that counts its calls acts by the count, whatever the schedule."""
    phase = Phase("online", Counter(), 12, online=True, replay=ONLINE, updates=updates, batch_size=8)
    _, _, task, _ = follow(phase, settings=Settings(eval_episodes=0))
    np.testing.assert_allclose(task.envs[0].actions, [0.1 * t for t in (*range(7), *range(5))], rtol=1e-6)


@pytest.mark.parametrize("n", [1, 32, 33])
def test_updates_at_an_episodes_end_find_it_closed(n):
    """Whether few or many: the first updates come after the first episode, and its return is known."""
    phase = Phase("online", Watcher(), 12, online=True, replay=ONLINE, updates=PerEpisode(n), batch_size=8)
    _, rows, _, _ = follow(phase, settings=Settings(eval_episodes=0, log_every=1))
    shares = [r["metrics"]["open"] for r in rows if r["kind"] == "train" and "open" in r["metrics"]]
    assert len(shares) == 2  # an episode of seven, one of five
    assert shares == [0.0, 0.0]


def test_a_learner_that_remembers_does_not_warm_up_by_uniform_actions():
    warmup = Warmup(4, "uniform")
    phase = Phase("online", Watcher(remembers=True), 8, online=True, replay=ONLINE, warmup=warmup)
    with pytest.raises(ConfigError, match=r"remembers what it did.*phases\.online\.warmup\.actions=policy"):
        follow(phase)
