"""Every named method as a tuple of phases. A recipe is a function of a task and two budgets; its docstring is its help.

`segue list` walks this file; `segue show METHOD TASK` prints what a recipe resolves to. Offline steps are batches that
a critic (or, without critics, the actor) learns from; online steps are environment steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from segue.errors import ConfigError, nearest
from segue.learners import BC, CQL, DT, IQL, MOPO, O3F, ODT, PEX, SAC, TD3, Expand, Many, Merge, Standardise
from segue.losses import Aggregation, OwnPairMin, ReturnBound
from segue.phases import Block, PerEpisode, PerStep, Phase, Warmup
from segue.presets import cql as cql_presets
from segue.presets import dt as dt_presets
from segue.presets import odt as odt_presets
from segue.presets import preset
from segue.presets import rlpd as rlpd_presets
from segue.presets.iql import reward as iql_reward
from segue.replays import Balanced, Best, Decaying, OnlineOffline, Sequences, Symmetric
from segue.transitions import Carry, Reset
from segue.types import Replay, Transition

Phases = tuple[Phase, ...]
Recipe = Callable[..., Phases]
STEPWISE = PerStep()


def bc(task: Any, offline_steps: int = 100_000, online_steps: int = 0) -> Phases:
    """Behaviour cloning of the dataset; no online phase."""
    if online_steps:
        raise ConfigError("bc has no online phase; its policy cannot improve there. Use iql, direct or pex")
    return (Phase("offline", BC(), offline_steps),)


def bc10(task: Any, offline_steps: int = 100_000, online_steps: int = 0) -> Phases:
    """Behaviour cloning of the tenth of the episodes with the highest returns (%BC of Chen et al. 2021)."""
    if online_steps:
        raise ConfigError("bc10 has no online phase; its policy cannot improve there. Use iql, direct or pex")
    return (Phase("offline", Standardise(BC()), offline_steps, replay=Best(0.1)),)


def _iql(task: Any, actor_decay: int | None = None) -> IQL:
    return IQL(**preset("iql", task), actor_decay=actor_decay)


def _iql_offline(task: Any, steps: int) -> Phase:
    """IQL on the dataset, the actor's rate falling to 0; the same for all recipes, so that they can share it."""
    return Phase("offline", _iql(task, steps or None), steps, reward=iql_reward(task))


def iql(task: Any, offline_steps: int = 1_000_000, online_steps: int = 1_000_000) -> Phases:
    """IQL, then IQL carried on with the online data added to the dataset (Kostrikov et al. 2022)."""
    offline = _iql_offline(task, offline_steps)
    return offline, Phase("online", _iql(task), online_steps, online=True, transition=Carry(), reward=offline.reward)


def direct(task: Any, offline_steps: int = 1_000_000, online_steps: int = 1_000_000) -> Phases:
    """IQL, then IQL carried on with half of each batch from the dataset: the baseline "Direct" of PEX."""
    offline = _iql_offline(task, offline_steps)
    return offline, Phase(
        "online",
        _iql(task),
        online_steps,
        online=True,
        transition=Carry(moments=False),
        replay=Symmetric(0.5),
        reward=offline.reward,
        warmup=Warmup(min(5_000, online_steps // 20), "policy"),
    )


def pex(task: Any, offline_steps: int = 1_000_000, online_steps: int = 1_000_000) -> Phases:
    """IQL, then policy expansion: the offline policy stays, frozen, beside a new one (Zhang et al. 2023)."""
    offline = _iql_offline(task, offline_steps)
    return offline, Phase(
        "online",
        PEX(_iql(task), **preset("pex", task)),
        online_steps,
        online=True,
        transition=Expand(),
        replay=Symmetric(0.5),
        reward=offline.reward,
        warmup=Warmup(min(5_000, online_steps // 20), "policy"),
    )


def sac(task: Any, offline_steps: int = 0, online_steps: int = 1_000_000) -> Phases:
    """SAC from scratch on online data alone (Haarnoja et al. 2018)."""
    return (_from_scratch("sac", SAC(), offline_steps, online_steps),)


def td3(task: Any, offline_steps: int = 0, online_steps: int = 1_000_000) -> Phases:
    """TD3 from scratch on online data alone (Fujimoto et al. 2018)."""
    return (_from_scratch("td3", TD3(), offline_steps, online_steps),)


def redq(task: Any, offline_steps: int = 0, online_steps: int = 250_000) -> Phases:
    """REDQ from scratch: ten critics, two drawn ones backed up, 20 batches a step (Chen et al. 2021)."""
    phase = _from_scratch("redq", SAC(**preset("redq", task)), offline_steps, online_steps, "redq-offline")
    return (replace(phase, reward=rlpd_presets.reward(task), updates=PerStep(20)),)


def redq_offline(task: Any, offline_steps: int = 1_000_000, online_steps: int = 250_000) -> Phases:
    """REDQ on the dataset, then REDQ carried on with the online data added to it."""
    learner, reward = SAC(**preset("redq", task)), rlpd_presets.reward(task)
    online = Phase("online", learner, online_steps, True, None, Carry(), reward=reward, updates=PerStep(20))
    return Phase("offline", learner, offline_steps, reward=reward), online


def rlpd(task: Any, offline_steps: int = 0, online_steps: int = 250_000) -> Phases:
    """REDQ with LayerNorm, half of each batch from the dataset; no pre-training (Ball et al. 2023)."""
    phase = _from_scratch("rlpd", SAC(**preset("rlpd", task)), offline_steps, online_steps, "redq-offline")
    reward = rlpd_presets.reward(task)
    return (replace(phase, replay=Symmetric(0.5), reward=reward, updates=PerStep(20)),)


def sac_data(task: Any, offline_steps: int = 0, online_steps: int = 1_000_000) -> Phases:
    """SAC from scratch, half of each batch from the dataset: the baseline of Cal-QL's table."""
    phase = _from_scratch("sac-data", SAC(**preset("sac_data", task)), offline_steps, online_steps, "cql or calql")
    return (replace(phase, replay=Symmetric(cql_presets.mixing(task)), reward=cql_presets.reward(task)),)


def o3f(task: Any, offline_steps: int = 1_000_000, online_steps: int = 1_000_000) -> Phases:
    """CQL carried on, acting by the best of many actions around the policy's (Mark et al. 2022)."""
    offline, online = cql(task, offline_steps, online_steps)
    learner = CQL(**preset("cql", task) | preset("o3f", task))
    return replace(offline, learner=learner), replace(online, learner=O3F(replace(learner, clone_steps=0)))


def cql(task: Any, offline_steps: int = 1_000_000, online_steps: int = 1_000_000) -> Phases:
    """CQL, then CQL carried on with half of each batch from the dataset (Kumar et al. 2020)."""
    return _conservative(task, CQL(**preset("cql", task)), offline_steps, online_steps)


def calql(task: Any, offline_steps: int = 1_000_000, online_steps: int = 1_000_000) -> Phases:
    """CQL whose values are not pushed below the data's returns, then carried on (Nakamoto et al. 2023)."""
    learner = CQL(**preset("cql", task), bound=ReturnBound())
    return _conservative(task, learner, offline_steps, online_steps)


def calql_uniform(task: Any, offline_steps: int = 1_000_000, online_steps: int = 1_000_000) -> Phases:
    """Cal-QL that bounds the values of uniform actions too (Sobol Mark et al. 2023, app. B.3)."""
    learner = CQL(**preset("cql", task), bound=ReturnBound(uniform=True))
    return _conservative(task, learner, offline_steps, online_steps)


def calql_episodic(task: Any, offline_steps: int = 1_000_000, online_steps: int = 1_000_000) -> Phases:
    """Cal-QL in its authors' schedule: after each episode as many updates as it had steps."""
    learner = CQL(**preset("cql", task), bound=ReturnBound())
    return _conservative(task, learner, offline_steps, online_steps, updates=PerEpisode(per_step=1))


def _conservative(
    task: Any,
    learner: CQL,
    offline_steps: int,
    online_steps: int,
    replay: Replay | None = None,
    updates: PerStep | PerEpisode | Block = STEPWISE,
) -> Phases:
    """CQL, then CQL carried on; `replay` is by default an exact share from the dataset."""
    reward = cql_presets.reward(task)
    return (
        Phase("offline", learner, offline_steps, reward=reward),
        Phase(
            "online",
            replace(learner, clone_steps=0),  # cloning is a start of the offline phase
            online_steps,
            online=True,
            transition=Carry(),
            replay=replay or Symmetric(cql_presets.mixing(task)),
            reward=reward,
            updates=updates,
        ),
    )


def gcql(task: Any, offline_steps: int = 100_000, online_steps: int = 100_000) -> Phases:
    """APL: five CQL critics that learn from half the online batches, of recent rows, greedily (Zheng et al. 2023)."""
    cycle = max(1, min(1000, online_steps // 100))  # a hundred of them make the authors' online phase
    replay, updates = OnlineOffline(p=0.5, recent=20 * cycle, after=10 * cycle), Block(cycle, 10 * cycle)
    learner = CQL(**preset("cql", task) | preset("gcql", task))
    return _conservative(task, learner, offline_steps, online_steps, replay, updates)


def off2on(task: Any, offline_steps: int = 1_000_000, online_steps: int = 250_000) -> Phases:
    """Five CQL agents, then SAC on their merged policy and critics with balanced replay (Lee et al. 2021)."""
    return _merged(task, OwnPairMin(), offline_steps, online_steps)


def upq(task: Any, offline_steps: int = 1_000_000, online_steps: int = 250_000) -> Phases:
    """Off2OnRL whose critics share one target: the mean of the agents' values less their deviation (survey slides)."""
    return _merged(task, preset("upq", task)["backup"], offline_steps, online_steps)


def _merged(task: Any, backup: Aggregation, offline_steps: int, online_steps: int) -> Phases:
    agent, numbers = CQL(**preset("cql", task)), preset("off2on", task)
    offline = Phase("offline", Many(agent, numbers["n_actors"]), offline_steps, reward=cql_presets.reward(task))
    return offline, _balanced(task, agent, SAC(**numbers, backup=backup), Merge(), online_steps)


def cql_br(task: Any, offline_steps: int = 1_000_000, online_steps: int = 250_000) -> Phases:
    """CQL, then SAC on its policy, critics and targets with balanced replay: Off2OnRL with a single agent."""
    agent, transition = CQL(**preset("cql", task)), Reset(Carry(moments=False), nets=("log_alpha",))
    offline = Phase("offline", agent, offline_steps, reward=cql_presets.reward(task))
    return offline, _balanced(task, agent, SAC(entropy_by_log=True), transition, online_steps)


def _balanced(task: Any, agent: CQL, learner: SAC, transition: Transition, online_steps: int) -> Phase:
    """Off2OnRL's online phase: blocks of a thousand steps and as many updates, ten times as many in the first."""
    block = max(min(1000, online_steps // 10), 1)
    return Phase(
        "online",
        replace(learner, hidden=agent.hidden, critic_hidden=agent.critic_hidden),
        online_steps,
        online=True,
        transition=transition,
        replay=Balanced(**preset("balanced", task), first=block),
        reward=cql_presets.reward(task),
        updates=Block(block, block, opening=10),
    )


def mopo(task: Any, offline_steps: int = 500_000, online_steps: int = 0) -> Phases:
    """Models learnt from the dataset, SAC on short penalised rollouts in them; offline only (Yu et al. 2020)."""
    if online_steps:
        raise ConfigError("mopo has no online phase; moore carries it on")
    return (_mopo_offline(task, offline_steps),)


def _mopo_offline(task: Any, steps: int) -> Phase:
    return Phase("offline", MOPO(SAC(), **preset("mopo", task)), steps, refit_every=1000)


def moore(task: Any, offline_steps: int = 500_000, online_steps: int = 100_000) -> Phases:
    """MOPO, then models, policy and critics carried on, learning from rollouts alone (Mao et al. 2022)."""
    learner = MOPO(SAC(), **preset("mopo", task), real_share=0.0)
    transition = Reset(Carry(), nets=("imagined",))
    online = Phase("online", learner, online_steps, True, None, transition, Decaying(), refit_every=1000)
    return _mopo_offline(task, offline_steps), online


def dt(task: Any, offline_steps: int = 100_000, online_steps: int = 0) -> Phases:
    """Decision Transformer: a sequence model that acts by the return asked for; offline only (Chen et al. 2021)."""
    if online_steps:
        raise ConfigError("dt has no online phase; odt is its form that has one")
    learner = Standardise(DT(**(preset("dt", task) or dt_presets.conditioning(task))))
    return (Phase("offline", learner, offline_steps, replay=Sequences(20), batch_size=64),)


def odt(task: Any, offline_steps: int = 5000, online_steps: int = 200_000) -> Phases:
    """Online Decision Transformer: DT with a stochastic policy, carried on in the environment (Zheng et al. 2022)."""
    learner = Standardise(ODT(**(preset("odt", task) or odt_presets.conditioning(task))))
    return (
        Phase("offline", learner, offline_steps, replay=Sequences(20), batch_size=256),
        Phase(
            "online",
            learner,
            online_steps,
            online=True,
            transition=Carry(),
            replay=Sequences(20, buffer=1000),
            batch_size=256,
            updates=PerEpisode(300),
        ),
    )


def _from_scratch(
    method: str, learner: Any, offline_steps: int, online_steps: int, instead: str = "iql, direct or pex"
) -> Phase:
    if offline_steps:
        raise ConfigError(f"{method} has no offline phase; it learns from scratch online. Use {instead}")
    warmup = Warmup(min(5_000, online_steps // 10), "uniform")
    return Phase("online", learner, online_steps, online=True, replay=Symmetric(0.0), warmup=warmup)


RECIPES: dict[str, Recipe] = {
    name.replace("_", "-"): f
    for name, f in list(globals().items())
    if inspect.isfunction(f) and f.__module__ == __name__ and not name.startswith("_")
}


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises `ConfigError` suggesting the nearest."""
    if name not in RECIPES:
        raise ConfigError(f"unknown method {name!r}{nearest(name, RECIPES)}")
    return RECIPES[name]


def phases_of(name: str, task: Any, offline_steps: int | None = None, online_steps: int | None = None) -> Phases:
    """The phases of method `name` on `task`; None takes the recipe's own budget, 0 drops that stage."""
    budget = {"offline_steps": offline_steps, "online_steps": online_steps}
    for field, steps in budget.items():
        if steps is not None and steps < 0:
            raise ConfigError(f"{field} must be at least 0, not {steps}")
    phases = recipe(name)(task, **{k: v for k, v in budget.items() if v is not None})
    kept = tuple(p for p in phases if p.steps)
    if not kept:
        raise ConfigError(f"{name}: no steps to run; give --offline-steps or --online-steps")
    offline_rows = kept[0].replay.offline if isinstance(kept[0].replay, Symmetric) else not kept[0].online
    if offline_rows and task.load_dataset is None:
        raise ConfigError(
            f"{name} learns from data, and the task {task.name!r} has none; name one with a dataset (segue list)"
        )
    if kept[0] != phases[0] and not isinstance(kept[0].transition, type(phases[0].transition)):
        raise ConfigError(
            f"{name}: its online phase needs the offline one; give --offline-steps (with --from RUN: those of that run)"
        )
    return kept
