"""Adroit: a hand of 24 joints turns a pen, opens a door, carries a ball or hammers a nail (gymnasium-robotics).

The dense tasks are D4RL's (Fu et al. 2020; Rajeswaran et al. 2018), the binary ones those of AWAC (Nair et al. 2020).
Of the binary tasks two conventions are in use, whose scores must not be mixed; the name says which one is meant:

- ``door-binary`` (Cal-QL, WSRL): a step pays success - 1, and the first success ends the episode.
- ``door-binary-continuing`` (RLPD, OOO): a step pays success - 1, and nothing but the limit ends the episode.

There are no data without a file of the user's. The binary tasks pay the rows of any Adroit file, dense or binary, by
the success that its observations show.

Departures:
1. Since gymnasium-robotics 1.2.1 the dense door, hammer and relocate pay +0.1 where D4RL pays -0.1 times the distance
   from hand to object: a few units of a return of thousands. Rows of D4RL's files keep their rewards.
2. The dense pen has D4RL's 100 steps and ends when the pen drops, as D4RL's does; gymnasium-robotics' goes on.
3. ``...-binary`` keeps rows up to the first success of an episode, which is where the environment ends it; Cal-QL keeps
   them up to the last one and drops the episodes without any. ``...-binary-continuing`` keeps all rows of all episodes,
   of which RLPD leaves out the last tenth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from segue.tasks.dataset import Dataset
from segue.tasks.environment import Environment, registered
from segue.tasks.formats.common import Reading
from segue.tasks.made import Making
from segue.tasks.success import Success, as_recorded, relabelled
from segue.tasks.task import Reference, Task, never

CONVENTIONS = {
    "": "dense rewards",
    "-binary": "reward -1, 0 at success, which ends the episode",
    "-binary-continuing": "reward -1, 0 while it succeeds; only the limit ends the episode",
}
OPEN = 1.35  # rad, of the door's hinge
HELD = 0.1  # m, from the ball to its target
DRIVEN = 0.01  # m, from the nail to its goal
NAIL_GOAL = (0.04067961, -0.00362358)  # m, x and y of the nail's goal, where it lies in every episode
NEAR, ALIGNED = 0.075, 0.95  # m and cosine, of the pen to its target
DROPPED = 0.075  # m, height of the pen

Rule = Callable[[Any], Any]  # observations [..., obs_dim] of NumPy or jax -> [...] bool


def _length(vector: Any) -> Any:
    return (vector * vector).sum(-1) ** 0.5


def pen_success(obs: Any) -> Any:
    """Entries 39:42 lead from the target to the pen, 33:36 and 36:39 are the directions of the two."""
    return (_length(obs[..., 39:42]) < NEAR) & ((obs[..., 33:36] * obs[..., 36:39]).sum(-1) > ALIGNED)


def pen_dropped(obs: Any) -> Any:
    """Entry 26 is the pen's height."""
    return obs[..., 26] < DROPPED


def door_success(obs: Any) -> Any:
    """Entry 28 is the angle of the door's hinge."""
    return obs[..., 28] >= OPEN


def relocate_success(obs: Any) -> Any:
    """Entries 36:39 lead from the target to the ball."""
    return _length(obs[..., 36:39]) < HELD


def hammer_success(obs: Any) -> Any:
    """Entries 42:45 are the nail's position; it moves in the plane, at the height of its goal."""
    x, y = obs[..., 42] - NAIL_GOAL[0], obs[..., 43] - NAIL_GOAL[1]
    return (x * x + y * y) ** 0.5 < DRIVEN


@dataclass(frozen=True)
class Skill:
    """One task of the hand."""

    env_id: str
    text: str
    reference: Reference
    obs_dim: int
    act_dim: int
    success: Rule
    lost: Rule | None = None  # ends the dense task
    horizon: int = 200


SKILLS = {
    "pen": Skill(
        "AdroitHandPen-v1",
        "turn a pen",
        Reference("D4RL pen", 96.262799, 3076.8331017826877),
        45,
        24,
        pen_success,
        lost=pen_dropped,
        horizon=100,
    ),
    "door": Skill(
        "AdroitHandDoor-v1", "open a door", Reference("D4RL door", -56.512833, 2880.5693087298737), 39, 28, door_success
    ),
    "relocate": Skill(
        "AdroitHandRelocate-v1",
        "carry a ball",
        Reference("D4RL relocate", -6.425911, 4233.877797728884),
        39,
        30,
        relocate_success,
    ),
    "hammer": Skill(
        "AdroitHandHammer-v1",
        "drive a nail",
        Reference("D4RL hammer", -274.856578, 12794.134825156867),
        46,
        26,
        hammer_success,
    ),
}


def catalogue() -> dict[str, str]:
    """One line on each task of the family."""
    return {
        f"{name}{convention}": f"{skill.env_id}, {skill.text}: {text}; data from a file"
        for name, skill in SKILLS.items()
        for convention, text in CONVENTIONS.items()
    }


def task(name: str, making: Making) -> Task:
    """The task of a skill and a convention, without data of its own."""
    del making
    skill, binary, ends = _parsed(name)
    ending = skill.success if ends else (None if binary else skill.lost)

    def relabel(dataset: Dataset) -> Dataset:
        if dataset.obs_dim != skill.obs_dim:
            return dataset  # of another task: refused where the sizes are compared
        success = skill.success(dataset.next_obs)
        return relabelled(dataset, success - 1.0, success & ends, name)

    return Task(
        name=name,
        family="adroit",
        source={"kind": "named", "name": name},
        make_env=lambda: make_env(name),
        load_dataset=None,
        # only a success pays 0; a failure pays -1 at each of its steps
        reference=Reference("success rate", -float(skill.horizon), 0.0, solved=0.0) if binary else skill.reference,
        replayable=True,
        obs_dim=skill.obs_dim,
        act_dim=skill.act_dim,
        horizon=skill.horizon,
        terminates=never if ending is None else lambda _obs, _action, next_obs: ending(next_obs),
        reading=Reading(clip_actions=True),  # human actions exceed 1
        relabel=relabel if binary else lambda dataset: as_recorded(dataset, name),
    )


def _parsed(name: str) -> tuple[Skill, bool, bool]:
    """The skill, whether rewards are binary, and whether a success ends the episode."""
    key, _, convention = name.partition("-")
    return SKILLS[key], bool(convention), convention == "binary"


def make_env(name: str) -> Environment:
    """The environment of a task. Raises ``ConfigError`` without gymnasium-robotics."""
    skill, binary, ends = _parsed(name)
    env = registered("gymnasium-robotics", skill.env_id, max_episode_steps=skill.horizon)
    lost = None if binary else skill.lost
    return Environment(Success(env, binary=binary, ends=ends, lost=lost), name)  # type: ignore[arg-type]
