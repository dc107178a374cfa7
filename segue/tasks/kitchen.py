"""Franka Kitchen: a robot arm brings four of a kitchen's parts into place (gymnasium-robotics' ``FrankaKitchen-v1``).

A part in place (within 0.3 of its goal) pays 1, once an episode; the episode ends when all four are, or after 280
steps. The tasks and the reference (returns 0 to 4) are D4RL's (Fu et al. 2020; demonstrations: Gupta et al. 2019).
There are no data without a file of the user's, and two kinds of files with two observations are around, so the name of
a task says which one it takes:

- ``kitchen-partial``: D4RL's files. 60 entries: 9 joints of the robot, 21 of the objects, then the 30 joints' goals
  (0 where there is none). The environment has D4RL's noise. Their rewards count the parts in place, row by row, and
  their terminals are ends of demonstrations: rewards become what a step adds, and only a count of 4 ends an episode.
- ``kitchen-partial-minari``: Minari's files. 59 entries: 9 joints of the robot, their velocities, 21 joints of the
  objects, their 20 velocities; the goals, always the same, are left out. Rewards and ends are computed from these.

Departures from D4RL: the simulator and the model are gymnasium-robotics'; the robot starts at rest, and whether a part
is in place is decided on its joints without noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from segue.tasks.dataset import Dataset
from segue.tasks.environment import Environment, registered
from segue.tasks.formats.common import Reading
from segue.tasks.made import Making
from segue.tasks.success import relabelled
from segue.tasks.task import Reference, Task

GOALS = {  # part: first of its joints, where they should be
    "bottom burner": (11, (-0.88, -0.01)),
    "light switch": (17, (-0.69, -0.05)),
    "slide cabinet": (19, (0.37,)),
    "microwave": (22, (-0.75,)),
    "kettle": (23, (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
}
CLOSE = 0.3  # distance of joints below which a part is in place
PARTS = {
    "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "light switch", "slide cabinet"),
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}
TEXTS = {
    "complete": "demonstrations of exactly these",
    "partial": "demonstrations of which some do all of them",
    "mixed": "demonstrations of which none does all of them",
}
MINARI = "-minari"  # ending of the names that take Minari's files
ROBOT, JOINTS, STATE = 9, 30, 59  # joints of the robot, joints, entries of FrankaKitchen's observation
OBJECTS = slice(18, 39)  # where FrankaKitchen's observation has the objects' joints
NOISE = {"robot_noise_ratio": 0.1, "object_noise_ratio": 0.1}  # D4RL's; FrankaKitchen's are 0.01 and 0.0005
LIMIT = 280  # steps


def goal(parts: tuple[str, ...]) -> np.ndarray:
    """The goals of the joints, [30] float64, 0 where there is none."""
    joints = np.zeros(JOINTS)
    for part in parts:
        first, values = GOALS[part]
        joints[first : first + len(values)] = values
    return joints


def in_place(objects: np.ndarray, part: str) -> np.ndarray:
    """Whether a part is in place, [...] bool, from the joints of the objects [..., 21]."""
    first, values = GOALS[part]
    joints = objects[..., first - ROBOT : first - ROBOT + len(values)]
    return np.linalg.norm(joints - np.array(values), axis=-1) < CLOSE


class Kitchen:
    """``FrankaKitchen-v1`` with a flat observation: [60] as D4RL's, or with `goals` None [59] as it comes.

    ``info["episode"]`` of the last step holds ``success`` (all parts in place once, 0 or 1) and ``parts`` (how many).
    """

    def __init__(self, env: Any, goals: np.ndarray | None) -> None:
        from gymnasium.spaces import Box

        size = STATE if goals is None else 2 * JOINTS
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space, self.spec = env.action_space, env.spec
        self._env, self._goals = env, goals

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """As Gymnasium's."""
        obs, info = self._env.reset(seed=seed)
        return self._flat(obs), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """As Gymnasium's."""
        obs, reward, terminated, truncated, info = self._env.step(action)
        if terminated or truncated:
            info = info | {
                "episode": {"success": float(terminated), "parts": float(len(info["episode_task_completions"]))}
            }
        return self._flat(obs), reward, terminated, truncated, info

    def close(self) -> None:
        """Frees what the environment holds."""
        self._env.close()

    def _flat(self, obs: dict[str, Any]) -> np.ndarray:
        state = obs["observation"]
        return state if self._goals is None else np.concatenate([state[:ROBOT], state[OBJECTS], self._goals])


def catalogue() -> dict[str, str]:
    """One line on each task of the family."""
    return {
        f"kitchen-{level}{ending}": f"FrankaKitchen-v1, {', '.join(parts)}; data: {source} file of {TEXTS[level]}"
        for ending, source in (("", "D4RL's"), (MINARI, "Minari's"))
        for level, parts in PARTS.items()
    }


def task(name: str, making: Making) -> Task:
    """The task ``kitchen-<level>`` or ``kitchen-<level>-minari``, without data of its own."""
    del making
    minari = name.endswith(MINARI)
    parts = _parts(name)

    def relabel(dataset: Dataset) -> Dataset:
        return rewarded(dataset, parts, name)

    return Task(
        name=name,
        family="kitchen",
        source={"kind": "named", "name": name},
        make_env=lambda: make_env(name),
        load_dataset=None,
        reference=Reference(f"D4RL kitchen-{name.split('-')[1]}", 0.0, 4.0),
        replayable=True,
        obs_dim=STATE if minari else 2 * JOINTS,
        act_dim=ROBOT,
        horizon=LIMIT,
        reading=Reading(columns={"obs": "observation"})
        if minari
        else Reading(rewards="count", terminals="cut", terminal_reward=float(len(parts))),
        relabel=relabel if minari else None,
    )


def _parts(name: str) -> tuple[str, ...]:
    return PARTS[name.split("-")[1]]


def rewarded(dataset: Dataset, parts: tuple[str, ...], name: str) -> Dataset:
    """Rows of FrankaKitchen's observations with the rewards and the ends of a task, computed from the joints."""
    if dataset.obs_dim != STATE:
        return dataset  # refused where the sizes are compared
    objects = dataset.next_obs[:, OBJECTS]
    reward, done = np.zeros(dataset.size), np.ones(dataset.size, bool)
    for part in parts:
        total = np.cumsum(in_place(objects, part))
        before = np.append(0, total[:-1])  # rows before this one in which it was in place
        earlier = np.repeat(before[dataset.starts], dataset.lengths)  # of them those of other episodes
        reward += (before == earlier) & (total > earlier)
        done &= total > earlier
    return relabelled(dataset, reward, done, name)


def make_env(name: str) -> Environment:
    """The environment of a task. Raises ``ConfigError`` without gymnasium-robotics."""
    parts, minari = _parts(name), name.endswith(MINARI)
    noise = {} if minari else NOISE
    env = registered(
        "gymnasium-robotics", "FrankaKitchen-v1", tasks_to_complete=list(parts), max_episode_steps=LIMIT, **noise
    )
    return Environment(Kitchen(env, None if minari else goal(parts)), name)  # type: ignore[arg-type]
