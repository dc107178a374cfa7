"""Episodes that succeed or fail: what they pay and where they end, in an environment and in the rows of a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from segue.errors import DataError
from segue.tasks.dataset import Dataset
from segue.tasks.formats import disk


class Success:
    """A Gymnasium environment whose episodes say at their last step whether they succeeded.

    ``info["success"]`` of any step makes the episode a success; ``info["episode"]`` of the last step holds ``success``
    (0 or 1). With `binary` a step pays success - 1, so -1 or 0, with `ends` the first success ends the episode, and
    ``lost(obs)`` ends it as well.
    """

    def __init__(
        self, env: Any, *, binary: bool = False, ends: bool = False, lost: Callable[[np.ndarray], Any] | None = None
    ) -> None:
        self.observation_space, self.action_space, self.spec = env.observation_space, env.action_space, env.spec
        self._env, self._binary, self._ends, self._lost = env, binary, ends, lost
        self._succeeded = False

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """As Gymnasium's."""
        self._succeeded = False
        return self._env.reset(seed=seed)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As Gymnasium's."""
        obs, reward, terminated, truncated, info = self._env.step(action)
        success = bool(info["success"])
        self._succeeded |= success
        terminated = bool(terminated) or (self._ends and success) or (self._lost is not None and bool(self._lost(obs)))
        if terminated or truncated:
            info = info | {"episode": {"success": float(self._succeeded)}}
        return obs, float(success) - 1.0 if self._binary else float(reward), terminated, truncated, info

    def close(self) -> None:
        """Frees what the environment holds."""
        self._env.close()


KIND = "relabelled"


def as_recorded(dataset: Dataset, task: str) -> Dataset:
    """The dataset, for a task that takes a file's own rewards. Raises ``DataError`` if it has those of another task."""
    for x in dataset.info.get("transforms", []):
        if x.get("kind") == KIND:
            raise DataError(
                f"{dataset.name}: has the rewards of {x.get('task')!r}, and {task!r} learns from the recorded ones; "
                "begin with the file before that"
            )
    return dataset


def relabelled(dataset: Dataset, reward: np.ndarray, terminal: np.ndarray, task: str) -> Dataset:
    """The dataset with the rewards [N] and the ends [N] bool of `task`, as ``info["transforms"]`` tells; the dataset
    itself if it tells so already.

    Rows of an episode behind its first end are dropped; the last row of one without an end becomes a timeout. A row
    that was terminal and is so no longer needs a successor: where it has none (its next observation is its own, which
    is what files without next observations give), it is dropped too, and the row before it ends the episode.
    """
    past = list(dataset.info.get("transforms", []))
    before = [x for x in past if x.get("kind") == KIND]
    if before and before[-1].get("task") == task:
        return dataset
    if any(x.get("dropped") for x in before):
        raise DataError(
            f"{dataset.name}: was relabelled for {before[-1].get('task')!r} already, which dropped rows that {task!r} "
            "needs; begin with the file before that"
        )
    disk.refuse(dataset, f"the reward of {task}")
    ends = np.cumsum(terminal)
    before = ends - terminal  # ends in earlier rows
    keep = before == np.repeat(before[dataset.starts], dataset.lengths)
    keep &= ~(dataset.terminal & ~terminal & (dataset.next_obs == dataset.obs).all(1))
    episode = np.repeat(np.arange(len(dataset.starts)), dataset.lengths)[keep]
    last = np.append(episode[1:] != episode[:-1], True)
    done = terminal[keep]
    record = {"kind": KIND, "task": task, "dropped": int((~keep).sum())}
    return replace(
        dataset,
        obs=dataset.obs[keep],
        action=dataset.action[keep],
        reward=reward[keep].astype(np.float32),
        next_obs=dataset.next_obs[keep],
        terminal=done,
        timeout=last & ~done,
        info={**dataset.info, "transforms": [*past, record]},
    ).validate()
