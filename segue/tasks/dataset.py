"""Offline data: columns of transitions cut into episodes, checked once at the entrance.

An episode ends where the MDP ended (``terminal``) or where it was cut (``timeout``: time limit, end of the recording,
a gap). Files are read and written by ``segue.tasks.formats``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from segue.errors import ConfigError, DataError, nearest

COLUMNS = ("obs", "action", "reward", "next_obs", "terminal", "timeout")
D4RL = {
    "obs": "observations",
    "action": "actions",
    "reward": "rewards",
    "next_obs": "next_observations",
    "terminal": "terminals",
    "timeout": "timeouts",
}
GAP = 1e-6  # |obs[i+1] - next_obs[i]| above which an episode ended (IQL's and CORL's number)
SLACK = 1e-3  # how far, in units of [-1, 1], an action may leave its range and be clipped
PIECE = 2**14  # rows that one temporary array holds
REWARDS = ("transition", "observation", "count")  # what a row's reward belongs to, see `dataset_from_arrays`
TERMINALS = ("end", "cut")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Transitions in the order of their episodes, N rows.

    ``timeout`` marks every end of an episode that is not ``terminal``; the last row is always an end. ``info`` is
    JSON-able: where the data came from, versions, their ``licence``, and under ``transforms`` the list of what was done
    to the rows, in order. Arrays are not to be written to.
    """

    obs: np.ndarray  # [N, obs_dim] float32
    action: np.ndarray  # [N, act_dim] float32 in [-1, 1]
    reward: np.ndarray  # [N] float32, as the task pays it
    next_obs: np.ndarray  # [N, obs_dim] float32
    terminal: np.ndarray  # [N] bool
    timeout: np.ndarray  # [N] bool
    name: str
    info: dict[str, Any] = field(default_factory=dict)

    least: ClassVar[int] = 2  # rows

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.reward)

    @property
    def obs_dim(self) -> int:
        return self.obs.shape[1]

    @property
    def act_dim(self) -> int:
        return self.action.shape[1]

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each episode, [E] int64."""
        ends = np.flatnonzero(self.terminal | self.timeout)
        return np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Rows of each episode, [E] int64."""
        return np.diff(self.starts, append=self.size)

    @cached_property
    def returns(self) -> np.ndarray:
        """Undiscounted sum of rewards of each episode, [E] float64."""
        return np.add.reduceat(self.reward, self.starts, dtype=np.float64)

    @cached_property
    def step(self) -> np.ndarray:
        """Time of each row in its episode, from 0, [N] int64."""
        return np.arange(self.size) - np.repeat(self.starts, self.lengths)

    @cached_property
    def hash(self) -> str:
        """`content_hash` of the rows."""
        return content_hash(self)

    def validate(self) -> Dataset:
        """The dataset itself, if it keeps what the class promises; raises ``DataError`` otherwise."""
        for column in COLUMNS:
            array = getattr(self, column)
            ndim, dtype = (2 if column in ("obs", "action", "next_obs") else 1), _dtype(column)
            if not isinstance(array, np.ndarray) or array.ndim != ndim or array.dtype != dtype:
                raise DataError(f"{self.name}: column {column!r} must be a {ndim}-d {np.dtype(dtype)} array")
            if len(array) != self.size:
                raise DataError(
                    f"{self.name}: column {column!r} has {len(array)} rows, and 'reward' has {self.size}: "
                    "all columns need one row per transition"
                )
            _finite(array, column, self.name)
        if self.size < self.least:
            raise DataError(f"{self.name}: {_rows(self.size)}; a dataset needs at least {self.least}")
        if self.next_obs.shape != self.obs.shape:
            raise DataError(f"{self.name}: 'next_obs' is {self.next_obs.shape} and 'obs' is {self.obs.shape}")
        if not (self.action.shape[1] and self.obs.shape[1]):
            raise DataError(f"{self.name}: observations or actions have no entries; each needs at least one")
        if self.action.max() > 1 or self.action.min() < -1:
            row, i = np.argwhere(np.abs(self.action) > 1)[0]
            raise DataError(f"{self.name}: 'action' row {row} holds {self.action[row, i]}, outside [-1, 1]")
        both = self.terminal & self.timeout
        if both.any():
            raise DataError(f"{self.name}: row {int(np.argmax(both))} is terminal and timeout; a row is one of them")
        if not (self.terminal[-1] or self.timeout[-1]):
            raise DataError(f"{self.name}: the last row ends no episode; mark it as 'timeout'")
        return self


def dataset_from_arrays(
    columns: Mapping[str, Any],
    name: str,
    *,
    action_low: Any = None,
    action_high: Any = None,
    max_episode_steps: int | None = None,
    clip_actions: bool = False,
    rewards: str = "transition",
    terminals: str = "end",
    terminal_reward: float | None = None,
    info: Mapping[str, Any] | None = None,
    owned: bool = False,
) -> Dataset:
    """A checked `Dataset` from columns under our names or D4RL's (``observations``, ``next_observations``, ...).

    Columns that are float32 already are shared with the caller, not copied; leave them as they are. Those that are
    `owned`, as a reader's are, may be overwritten, which saves copies.

    ``action_low``, ``action_high``: the environment's bounds, scalars or [act_dim]; actions are mapped from them to
    [-1, 1]. Without them the actions must lie in [-1, 1]. ``clip_actions`` clips those outside instead of refusing
    them.

    Missing next observations are taken from the next row of the same episode. The last row of an episode that was cut
    has none, so that row is dropped and the row before ends the episode; a terminal row gets its own observation, which
    nothing reads. (D4RL's ``qlearning_dataset`` drops the same rows, but crosses episodes at terminals.)
    ``max_episode_steps`` marks the cuts of data without a timeout column.

    With next observations, an episode also ends where the next row starts elsewhere. A time limit that the data flag as
    terminal cannot be told from an end, and stays terminal; ``terminals="cut"`` makes all of them cuts.

    ``rewards`` says what the reward of a row is: of its transition; ``"observation"``: of the observation before the
    step, so that a transition is paid by the row after it, and the last row of a cut episode, whose reward is unknown,
    is dropped; ``"count"``: how many subtasks are done so far, so that a transition is paid what it adds to the most of
    its episode. Where a reward, as it stands in the column, is at least ``terminal_reward``, the MDP ends with the
    transition that it belongs to, and the rest of the episode is dropped. With ``"observation"`` that is the transition
    which leads to the paid observation; one that an episode begins with ends nothing.

    ``info["transforms"]`` gets one object for each of these that changed something. Raises ``DataError`` naming column
    and row, ``ConfigError`` for an unknown option.
    """
    check_options(rewards, terminals)
    if max_episode_steps is not None and max_episode_steps < 1:
        raise DataError(f"{name}: max_episode_steps is {max_episode_steps}; it must be at least 1")
    report: dict[str, Any] = dict(info or {})
    done: list[dict[str, Any]] = list(report.pop("transforms", ()))
    known = _match(columns, name, report.pop("ignored_columns", ()))
    raw = {column: _numeric(columns[key], key, name) for column, key in known.items()}
    ignored = sorted({*set(columns) - set(known.values()), *(info or {}).get("ignored_columns", ())})
    if ignored:
        report["ignored_columns"] = ignored
    _check_shapes(raw, known, name)
    rows = len(raw["obs"])

    flags = {c: _flags(raw[c], known[c], name) for c in ("terminal", "timeout") if c in raw}
    if "terminal" in flags and terminals == "cut":
        timeout = flags["terminal"] | flags.get("timeout", False)
        done.append({"kind": "terminals_are_cuts", "rows": int(flags["terminal"].sum())})
        flags = {"timeout": timeout}
    elif not flags and max_episode_steps is None:
        raise DataError(
            f"{name}: no column 'terminal' ('terminals') and none 'timeout' ('timeouts'), so the ends of episodes "
            "are not known; add them, or give the time limit (--env, `max_episode_steps`)"
        )
    elif "terminal" not in flags:
        report["assumed"] = "no terminal column: no row ends the MDP"
    if "next_obs" not in raw and "timeout" not in flags and max_episode_steps is None:
        raise DataError(
            f"{name}: no column 'next_obs' and none 'timeout', so a row after a time limit would pass for a successor; "
            "add 'timeout' ('timeouts', all False if nothing was cut), or give the time limit (--env, "
            "`max_episode_steps`)"
        )

    obs = _float32(raw.pop("obs"), known["obs"], name)
    reward = _float32(raw.pop("reward"), known["reward"], name)
    next_obs = _float32(raw.pop("next_obs"), known["next_obs"], name) if "next_obs" in raw else None
    action = _unit_actions(raw.pop("action"), known["action"], name, action_low, action_high, clip_actions, owned, done)

    terminal, timeout = _ends(obs, next_obs, flags, max_episode_steps, name, done)
    dropped = np.zeros(rows, bool)

    def drop(which: np.ndarray, reason: str) -> None:
        """Notes the rows that are dropped for a reason, each once."""
        fresh = which & ~dropped
        if fresh.any():
            done.append({"kind": "rows_dropped", "rows": int(fresh.sum()), "reason": reason})
            dropped[fresh] = True

    paid = reward  # as it stands in the column, at the row of its transition
    if rewards == "count":
        reward = _gains(paid, terminal | timeout)
        done.append({"kind": "rewards_are_gains", "of": "the count of subtasks done"})
    elif rewards == "observation":
        if terminal.any():
            raise DataError(
                f"{name}: row {int(np.argmax(terminal))} is terminal, and the reward of the observation that it leads "
                "to is in no row; read the file with --rewards transition (`rewards='transition'`)"
            )
        reward = paid = np.append(paid[1:], np.float32(0))
        drop(timeout, "last of a cut episode: the reward of its step is in no row")
        done.append({"kind": "rewards_shifted", "rows": 1, "reason": "they belong to the observation before the step"})
    if terminal_reward is not None:
        reached = (paid >= terminal_reward) & ~dropped  # the reward of a dropped row is not known
        after = _after_first(reached, terminal | timeout)
        terminal |= reached & ~after
        timeout &= ~terminal
        kind = {"kind": "ends_by_reward", "terminal_reward": float(terminal_reward)}
        done.append({**kind, "rows": int((reached & ~after).sum())})
        drop(after, "behind the end of the MDP")
    if next_obs is None:
        done.append({"kind": "next_obs_from_next_row"})
        drop(timeout, "last of a cut episode: it has no next observation")

    if dropped.any() or next_obs is None:
        end = terminal | timeout
        timeout[:-1] |= dropped[1:] & ~end[:-1]  # the row before, where it is of the same episode
        index = np.flatnonzero(~dropped)
        if len(index) < 2:
            raise DataError(
                f"{name}: {int(dropped.sum())} of {_rows(rows)} are dropped ({done[-1].get('reason', 'see above')}), "
                f"which leaves {_rows(len(index))}; give longer episodes, or add the column 'next_obs'"
            )
        if next_obs is None:
            next_obs = obs[np.where(end[index], index, np.minimum(index + 1, rows - 1))]
        else:
            next_obs = _taken(next_obs, index, owned)
        obs, action = _taken(obs, index, owned), _taken(action, index, owned)
        reward, terminal, timeout = reward[index], terminal[index], timeout[index]

    if done:
        report["transforms"] = done
    return closed(Dataset(obs, action, reward, next_obs, terminal, timeout, name, report))


def closed(dataset: Dataset) -> Dataset:
    """The dataset after `Dataset.validate`, with arrays that cannot be written through it."""
    dataset.validate()
    views = {column: getattr(dataset, column).view() for column in COLUMNS}
    for view in views.values():
        view.setflags(write=False)
    return Dataset(**views, name=dataset.name, info=dataset.info)


def renamed(dataset: Dataset, name: str) -> Dataset:
    """The same rows under another name."""
    return Dataset(*(getattr(dataset, column) for column in COLUMNS), name=name, info=dataset.info)


def licensed(dataset: Dataset, licence: str) -> Dataset:
    """The same rows under this licence (by its SPDX name where it has one), as ``info`` says from now on."""
    return replace(dataset, info={**dataset.info, "licence": licence})


def check_options(rewards: str, terminals: str) -> None:
    """Raises ``ConfigError`` unless both are options of `dataset_from_arrays`."""
    if rewards not in REWARDS:
        raise ConfigError(f"rewards are {rewards!r}{nearest(str(rewards), REWARDS)}")
    if terminals not in TERMINALS:
        raise ConfigError(f"terminals are {terminals!r}{nearest(str(terminals), TERMINALS)}")


def content_hash(dataset: Dataset) -> str:
    """SHA-256 in hex over names, types, shapes and bytes of the columns; no column is held whole."""
    digest = hashlib.sha256()
    for column in COLUMNS:
        array = getattr(dataset, column)
        digest.update(f"{column} {array.dtype.str} {array.shape}\n".encode())
        for piece in pieces(len(array)):
            digest.update(np.ascontiguousarray(array[piece]).data)
    return digest.hexdigest()


def pieces(rows: int) -> Iterator[slice]:
    """Slices of `PIECE` rows."""
    for start in range(0, rows, PIECE):
        yield slice(start, min(start + PIECE, rows))


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n} rows"


def _dtype(column: str) -> type:
    return np.bool_ if column in ("terminal", "timeout") else np.float32


def _match(columns: Mapping[str, Any], name: str, others: Any) -> dict[str, str]:
    """Our column name -> the key that holds it. A misspelt one, here or among the `others`, is refused."""
    if not isinstance(columns, Mapping):
        raise DataError(f"{name}: columns are a {type(columns).__name__}; give a dictionary of arrays")
    found: dict[str, str] = {}
    for column in COLUMNS:
        keys = [key for key in (column, D4RL[column]) if key in columns]
        if len(keys) == 2:
            raise DataError(f"{name}: columns {keys[0]!r} and {keys[1]!r} mean the same; remove one")
        if keys:
            found[column] = keys[0]
    rest = [*(str(key) for key in columns if key not in found.values()), *map(str, others)]
    for column in ("obs", "action", "reward"):
        if column not in found:
            close = get_close_matches(column, rest, 1, 0.6) or get_close_matches(D4RL[column], rest, 1, 0.6)
            hint = (
                f"; did you mean {close[0]!r}?"
                if close
                else f"; there are: {', '.join(sorted({*map(str, columns), *rest})) or 'none'}"
            )
            raise DataError(f"{name}: no column {column!r} (or {D4RL[column]!r}){hint}")
    for key in rest:
        absent = [word for column in COLUMNS if column not in found for word in (column, D4RL[column])]
        if absent and get_close_matches(key, absent, 1, 0.8):
            raise DataError(f"{name}: unknown column {key!r}{nearest(key, absent)} Rename or remove it")
    return found


def _numeric(values: Any, key: str, name: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{name}: column {key!r} is ragged: its rows differ in shape; pad or cut them") from error
    if array.dtype == object:
        raise DataError(f"{name}: column {key!r} is ragged or holds objects; give one numeric array")
    if array.dtype.kind not in "bifu":
        raise DataError(f"{name}: column {key!r} holds {array.dtype}; give numbers")
    return array


def _check_shapes(raw: dict[str, np.ndarray], known: Mapping[str, str], name: str) -> None:
    """Ranks, row counts and widths; a column of single-entry rows becomes a plain one."""
    for column in ("obs", "action", "next_obs"):
        if column in raw and raw[column].ndim != 2:
            shape, key = raw[column].shape, known[column]
            hint = "segue takes vectors, not images" if raw[column].ndim > 2 else "reshape it to [N, 1] if it is scalar"
            raise DataError(f"{name}: column {key!r} has shape {shape}, not [N, dim]; {hint}")
    for column in ("reward", "terminal", "timeout"):
        if column in raw and raw[column].ndim == 2 and raw[column].shape[1] == 1:
            raw[column] = raw[column][:, 0]
        if column in raw and raw[column].ndim != 1:
            raise DataError(f"{name}: column {known[column]!r} has shape {raw[column].shape}, not [N]")
    rows = len(raw["obs"])
    for column, array in raw.items():
        if len(array) != rows:
            raise DataError(
                f"{name}: column {known[column]!r} has {len(array)} rows, and {known['obs']!r} has {rows}: "
                "all columns need one row per transition"
            )
    if rows < 2:
        raise DataError(f"{name}: {_rows(rows)}; a dataset needs at least 2")
    for column in ("obs", "action"):
        if raw[column].shape[1] == 0:
            raise DataError(f"{name}: column {known[column]!r} has shape {raw[column].shape}: its rows are empty")
    if "next_obs" in raw and raw["next_obs"].shape != raw["obs"].shape:
        raise DataError(
            f"{name}: column {known['next_obs']!r} has shape {raw['next_obs'].shape}, "
            f"and {known['obs']!r} has {raw['obs'].shape}"
        )


def _finite(array: np.ndarray, key: str, name: str) -> None:
    if array.dtype.kind != "f":
        return
    count, first = 0, -1
    for piece in pieces(len(array)):
        good = np.isfinite(array[piece])
        if not good.all():
            bad = ~good.reshape(len(good), -1).all(axis=1)
            first = piece.start + int(np.argmax(bad)) if first < 0 else first
            count += int(bad.sum())
    if count:
        raise DataError(
            f"{name}: column {key!r} has NaN or infinity, first at row {first}, in {_rows(count)}; "
            "remove their episodes"
        )


def _float32(array: np.ndarray, key: str, name: str) -> np.ndarray:
    """The array itself if it is float32 in C order."""
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(array, np.float32)
    _finite(narrow, key, name)
    return narrow


def _flags(array: np.ndarray, key: str, name: str) -> np.ndarray:
    if array.dtype == bool:
        return array
    odd = ~np.isin(array, (0, 1))
    if odd.any():
        row = int(np.argmax(odd))
        raise DataError(f"{name}: column {key!r} row {row} holds {array[row]}; a flag is 0 or 1")
    return array.astype(bool)


def _unit_actions(
    array: np.ndarray, key: str, name: str, low: Any, high: Any, clip: bool, owned: bool, done: list[dict[str, Any]]
) -> np.ndarray:
    """Actions mapped from [low, high] to [-1, 1]; float32. Adds to `done` what it did."""
    dim = array.shape[1]
    try:
        lo = np.broadcast_to(np.asarray(-1.0 if low is None else low, np.float64), (dim,))
        hi = np.broadcast_to(np.asarray(1.0 if high is None else high, np.float64), (dim,))
    except ValueError as error:
        bounds = max(np.size(bound) for bound in (low, high) if bound is not None)
        raise DataError(
            f"{name}: column {key!r} has {dim} actions per row, and there are bounds for {bounds} (of the environment, "
            "or --action-low and --action-high: one number, or one per entry)"
        ) from error
    if not (np.isfinite(lo).all() and np.isfinite(hi).all() and (lo < hi).all()):
        raise DataError(
            f"{name}: action bounds are [{lo.tolist()}, {hi.tolist()}]; they must be finite, low below high"
        )
    unit = _float32(array, key, name)  # exact where nothing is mapped
    if (lo != -1).any() or (hi != 1).any():
        unit = np.empty(array.shape, np.float32) if unit is array else unit
        with np.errstate(over="ignore"):
            for piece in pieces(len(array)):
                unit[piece] = 2 * (array[piece].astype(np.float64) - lo) / (hi - lo) - 1
        _finite(unit, key, name)
        done.append({"kind": "actions_mapped", "low": lo.tolist(), "high": hi.tolist()})
    least, most = float(unit.min()), float(unit.max())
    if least >= -1 and most <= 1:
        return unit
    if not clip and (least < -1 - SLACK or most > 1 + SLACK):
        outside = np.abs(unit) > 1 + SLACK
        row, i = np.argwhere(outside)[0]
        raise DataError(
            f"{name}: column {key!r} row {row} holds {float(array[row, i]):g} in entry {i}, outside "
            f"[{lo[i]:g}, {hi[i]:g}] ({_rows(int(outside.any(axis=1).sum()))} in all); give the bounds that they were "
            "recorded with: --action-low and --action-high (`action_low`, `action_high`) or --env; or clip them: "
            "--clip-actions (`clip_actions=True`)"
        )
    rows = sum(int((np.abs(unit[piece]) > 1).any(axis=1).sum()) for piece in pieces(len(unit)))
    done.append({"kind": "actions_clipped", "rows": rows, "largest": max(-least, most)})
    return np.clip(unit, -1, 1, out=unit if owned or unit is not array else None)


def _ends(
    obs: np.ndarray,
    next_obs: np.ndarray | None,
    flags: Mapping[str, np.ndarray],
    max_episode_steps: int | None,
    name: str,
    done: list[dict[str, Any]],
) -> tuple[np.ndarray, np.ndarray]:
    """Terminal and timeout [N], new arrays, every episode closed. Adds to `done` the ends that no flag named."""
    rows = len(obs)
    terminal = flags["terminal"].copy() if "terminal" in flags else np.zeros(rows, bool)
    gap = np.zeros(rows, bool)
    if next_obs is not None:
        with np.errstate(over="ignore"):
            for piece in pieces(rows - 1):
                jump = obs[piece.start + 1 : piece.stop + 1] - next_obs[piece]
                gap[piece] = np.einsum("ij,ij->i", jump, jump) > GAP * GAP
    if "timeout" in flags:
        timeout = flags["timeout"] & ~terminal
    elif max_episode_steps is not None:
        timeout = _time_limit(terminal | gap, max_episode_steps) & ~terminal
        done.append({"kind": "time_limit", "steps": int(max_episode_steps), "rows": int(timeout.sum())})
    else:
        timeout = np.zeros(rows, bool)
    unflagged = gap & ~terminal & ~timeout
    if unflagged.any():
        rule = f"|obs[i+1] - next_obs[i]| > {GAP:g}"
        done.append({"kind": "ends_found", "rows": int(unflagged.sum()), "rule": rule})
        timeout |= unflagged
    if not (terminal[-1] or timeout[-1]):
        done.append({"kind": "last_row_ended"})
        timeout[-1] = True
    return terminal, timeout


def _first_rows(end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts [E] and lengths [E] of the episodes that these flags end; the last row ends one in any case."""
    starts = np.concatenate([[0], np.flatnonzero(end[:-1]) + 1])
    return starts, np.diff(starts, append=len(end))


def _gains(counts: np.ndarray, end: np.ndarray) -> np.ndarray:
    """What each row adds to the most of its episode so far, which is 0 before the first row; float32."""
    starts, lengths = _first_rows(end)
    lift = float(np.ptp(counts)) + float(np.abs(counts).max()) + 1  # an episode's values lie above the one's before
    base = np.repeat(np.arange(len(starts)) * lift, lengths)
    most = np.maximum.accumulate(np.maximum(counts.astype(np.float64), 0) + base)
    before = np.append(0.0, most[:-1])
    before[starts] = base[starts]
    return (most - before).astype(np.float32)


def _after_first(reached: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The rows of each episode behind its first `reached` one."""
    starts, lengths = _first_rows(end)
    before = np.cumsum(reached) - reached
    return before - np.repeat(before[starts], lengths) > 0


def _taken(array: np.ndarray, index: np.ndarray, owned: bool) -> np.ndarray:
    """``array[index]`` of ascending rows; in place where the array is owned: a row is read before it is overwritten."""
    if not (owned and array.flags.writeable):
        return array[index]
    for piece in pieces(len(index)):
        array[piece] = array[index[piece]]
    return array[: len(index)]


def _time_limit(end: np.ndarray, limit: int) -> np.ndarray:
    """Rows at which `limit` steps have passed since the last end."""
    starts = np.concatenate([[0], np.flatnonzero(end[:-1]) + 1])
    step = np.arange(len(end)) - np.repeat(starts, np.diff(starts, append=len(end)))
    return (step + 1) % limit == 0
