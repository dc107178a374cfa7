"""OGBench's archives: T + 1 observations a trajectory, no rewards; those of one task are computed on reading, unless
rewards and masks stand in the file, whose they are then.

``terminals`` marks the last observation of a trajectory, which is no end of the MDP, and whose action means nothing.
Rewards and ends come from OGBench's own relabelling: of the state *before* the step, as its single-task environments
pay it (-1 and 0 at the goal of mazes and soccer; minus the number of parts not done in manipulation).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from segue.errors import ConfigError, DataError, nearest
from segue.tasks.formats.common import Raw, Reading
from segue.tasks.formats.npz import members

MEMBERS = ("observations", "actions", "terminals", "next_observations", "rewards", "masks")
STATES = ("qpos", "button_states")  # what the relabelling looks at


def load(path: Path, reading: Reading, narrow: bool) -> Raw:
    """The transitions of an archive, paid for ``reading.task`` where the file holds no rewards.

    Raises ``DataError``, for the task ``ConfigError``.
    """
    if path.suffix.lower() != ".npz":
        raise DataError(
            f"{path}: an archive of OGBench ends in .npz; give one, or say which kind of file this is (--kind, `kind`)"
        )
    arrays, ignored = members(path, {*MEMBERS, *STATES}, narrow)
    for column in ("observations", "actions", "terminals"):
        if column not in arrays:
            raise DataError(f"{path}: column {column!r} is missing from an archive of OGBench; download it again")
    if ("rewards" in arrays) != ("masks" in arrays):
        raise DataError(f"{path}: rewards and masks come together; save both, or neither and name the task")
    if "rewards" not in arrays and reading.task is None:
        raise DataError(
            f"{path}: OGBench's archives hold no rewards; name the single task that they are computed for, such as "
            "--relabel antmaze-medium-singletask-v0 (`task=...`)"
        )
    rows = len(arrays["observations"]) if arrays["observations"].ndim else 0
    for key, array in arrays.items():
        if array.ndim == 0 or len(array) != rows or array.dtype.kind not in "bifu":
            raise DataError(
                f"{path}: column {key!r} is {array.dtype} of shape {array.shape}, and there are {rows} observations; "
                "download the archive again"
            )
    if arrays["terminals"].ndim != 1 or rows < 2:
        raise DataError(f"{path}: 'terminals' has shape {arrays['terminals'].shape}; it needs one flag a row, 2 rows")

    last = arrays.pop("terminals") != 0
    last[-1] = True
    obs, next_obs = arrays.pop("observations"), arrays.pop("next_observations", None)
    info: dict[str, Any] = {"source": path.name, "format": "ogbench"}
    if next_obs is None:
        index = np.flatnonzero(~last)  # the transitions: the last observation of a trajectory begins none
        if len(index) < 2:
            raise DataError(f"{path}: {len(index)} transitions in trajectories of single observations; 2 are needed")
        arrays = {key: array[index] for key, array in arrays.items()}
        last, next_obs, obs = last[index + 1], obs[index + 1], obs[index]
    columns = {"obs": obs, "action": arrays.pop("actions"), "next_obs": next_obs}
    if "rewards" not in arrays and reading.task is not None:
        arrays, relabelled = _relabelled(arrays, reading.task, path)
        info["transforms"] = [relabelled]
    elif reading.task is not None:
        info["assumed"] = f"rewards and masks are those of {reading.task}: they stand in the file and were not computed"
    if ignored:
        info["ignored_columns"] = ignored
    terminal = arrays["masks"] == 0
    columns |= {"reward": arrays["rewards"], "terminal": terminal, "timeout": last & ~terminal}
    return Raw(columns, info, False, path.stem)


def _relabelled(arrays: dict[str, np.ndarray], task: str, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """``rewards`` and ``masks`` [N] of a single task, and the record of it."""
    try:
        import gymnasium
        from ogbench.relabel_utils import relabel_dataset
    except ImportError as error:
        raise ConfigError(
            "relabelling for a task of OGBench needs its package: pip install 'segue[ogbench]'"
        ) from error
    identity = _environment(task, list(gymnasium.registry))
    missing = [] if "qpos" in arrays else ["qpos"]
    if ("scene" in identity or "puzzle" in identity) and "button_states" not in arrays:
        missing.append("button_states")
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing, which the rewards follow from; download it again")
    data: dict[str, Any] = {key: arrays[key] for key in STATES if key in arrays}
    drawn = np.random.get_state()  # OGBench's resets draw from NumPy's global stream
    env = gymnasium.make(identity)
    try:
        relabel_dataset(identity, env, data)
    except (IndexError, ValueError) as error:
        raise DataError(f"{path}: its states do not fit {identity}: {error}; name the task of this data set") from error
    finally:
        env.close()
        np.random.set_state(drawn)
    record = {
        "kind": "rewards_relabelled",
        "task": identity,
        "rows": len(data["rewards"]),
        "of": "state before the step",
    }
    return data, record


def _environment(task: str, known: list[str]) -> str:
    """The id of the single-task environment: the task, or the task without the word before ``singletask``."""
    words = task.split("-")
    if "singletask" in words:
        place = words.index("singletask")
        for identity in (task, "-".join(words[: place - 1] + words[place:])):
            if identity in known:
                return identity
    singles = [identity for identity in known if "-singletask-v" in identity and not identity.startswith("visual")]
    raise ConfigError(f"{task!r} is no single task of OGBench{nearest(task, singles)}")
