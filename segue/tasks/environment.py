"""The door: one environment behind two calls, float32 observations going out and actions in [-1, 1] coming in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import redirect_stderr
from importlib import import_module
from importlib.metadata import version
from io import StringIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from segue.errors import ConfigError, Diverged, EnvironmentFault

if TYPE_CHECKING:
    import gymnasium


NEEDED = {  # package: segue's extra, and the versions that this names
    "gymnasium-robotics": ("robotics", ">=1.4.2,<2"),
    "ogbench": ("ogbench", ">=1.2.2,<2"),
}
LARGEST_REWARD = float(np.finfo(np.float32).max)  # the store holds float32


class Step(NamedTuple):
    """What one environment step gives. ``info["episode"]``, where present, holds finite floats about the episode."""

    obs: np.ndarray  # [obs_dim] float32, a copy
    reward: float
    terminal: bool  # the MDP ended
    timeout: bool  # the episode was cut by a time limit, and the MDP did not end
    info: dict[str, Any]


class Environment:
    """A Gymnasium environment with a Box (or flat Dict of Box) observation space and a Box action space.

    Dict observations are flattened in sorted key order. Actions are clipped to [-1, 1] and rescaled to the Box.

    Attributes: ``name``; ``obs_dim``, ``act_dim``; ``horizon``, the time limit in steps or None; ``action_low`` and
    ``action_high`` [act_dim] float64, the bounds of the Box.

    Raises ``ConfigError`` for other spaces: discrete actions, images, nested dictionaries, unbounded actions.
    """

    def __init__(self, env: gymnasium.Env, name: str) -> None:
        for part in ("observation_space", "action_space", "reset", "step"):
            if not hasattr(env, part):
                raise ConfigError(f"environment {name!r} has no `{part}`: segue needs a Gymnasium environment")
        self.name = name
        self._env = env
        self._shapes = _observation_shapes(env.observation_space, name)
        self._keys = None if None in self._shapes else sorted(self._shapes)
        self.obs_dim = sum(math.prod(shape) for shape in self._shapes.values())
        self.action_low, self.action_high = _action_bounds(env.action_space, name)
        self.act_dim = self.action_low.size
        self._action_shape = env.action_space.shape
        self._action_dtype = env.action_space.dtype
        self._unit = bool(np.all(self.action_low == -1) and np.all(self.action_high == 1))
        self._half = (self.action_high - self.action_low) / 2
        limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
        self.horizon: int | None = None if limit is None else int(limit)

    def reset(self, seed: int) -> np.ndarray:
        """The first observation [obs_dim] float32 of a new episode. Raises ``EnvironmentFault``."""
        try:
            result = self._env.reset(seed=int(seed))
        except Exception as error:
            raise EnvironmentFault(f"{self.name}: reset raised {type(error).__name__}: {error}") from error
        if not (isinstance(result, tuple) and len(result) == 2):
            raise EnvironmentFault(
                f"{self.name}: reset returned {_what(result)}, not the pair (obs, info) of Gymnasium's interface"
            )
        return self._flat(result[0], "reset")

    def step(self, action: np.ndarray) -> Step:
        """One step with an action [act_dim] in [-1, 1], clipped to it.

        Raises ``EnvironmentFault`` if the environment raises or returns what its spaces do not allow, and
        ``Diverged`` if the action is NaN.
        """
        a = np.asarray(action)
        if a.shape != (self.act_dim,):
            raise ConfigError(f"{self.name}: an action has shape {a.shape}, and the task takes ({self.act_dim},)")
        a = np.maximum(np.minimum(a, 1.0), -1.0)
        if math.isnan(sum(a.tolist())):  # clipped, so no infinity is left
            raise Diverged(f"{self.name}: the policy gave an action with NaN: {a.tolist()}")
        if not self._unit:
            a = self.action_low + (a.astype(np.float64) + 1.0) * self._half
            a = np.maximum(np.minimum(a, self.action_high), self.action_low)
        if self._action_dtype is not None:
            a = a.astype(self._action_dtype, copy=False)
        try:
            result = self._env.step(a.reshape(self._action_shape))
        except Exception as error:
            raise EnvironmentFault(f"{self.name}: step raised {type(error).__name__}: {error}") from error
        if not (isinstance(result, tuple) and len(result) == 5):
            raise EnvironmentFault(
                f"{self.name}: step returned {_what(result)}, not (obs, reward, terminated, truncated, info)"
            )
        obs, reward, terminated, truncated, info = result
        obs = self._flat(obs, "step")
        try:
            reward = float(reward)
        except (TypeError, ValueError) as error:
            raise EnvironmentFault(f"{self.name}: the reward is {_what(reward)}, not a number") from error
        if not abs(reward) <= LARGEST_REWARD:  # false of NaN too
            raise EnvironmentFault(f"{self.name}: the reward is {reward}, not a finite number in float32")
        try:
            terminal, cut = bool(terminated), bool(truncated)
        except ValueError as error:  # an array of several flags
            raise EnvironmentFault(f"{self.name}: terminated and truncated must be single booleans") from error
        if not isinstance(info, dict):
            raise EnvironmentFault(f"{self.name}: info is {_what(info)}, not a dictionary")
        if "episode" in info:
            info = info | {"episode": _numbers(info["episode"])}
        return Step(obs, reward, terminal, cut and not terminal, info)

    def close(self) -> None:
        """Frees what the environment holds."""
        if hasattr(self._env, "close"):
            self._env.close()

    def _flat(self, obs: Any, call: str) -> np.ndarray:
        if self._keys is None:
            flat = self._part(obs, None, call)
        else:
            missing = [key for key in self._keys if not isinstance(obs, dict) or key not in obs]
            if missing:
                raise EnvironmentFault(f"{self.name}: the observation of {call} lacks {', '.join(map(repr, missing))}")
            flat = np.concatenate([self._part(obs[key], key, call) for key in self._keys])
        if not np.isfinite(flat).all():
            first = int(np.argmin(np.isfinite(flat)))
            raise EnvironmentFault(f"{self.name}: entry {first} of the observation of {call} is {flat[first]}")
        return flat

    def _part(self, obs: Any, key: str | None, call: str) -> np.ndarray:
        where = "" if key is None else f" under {key!r}"
        try:
            part = np.array(obs, dtype=np.float32)  # a copy: some environments reuse the array
        except (TypeError, ValueError) as error:
            raise EnvironmentFault(f"{self.name}: the observation{where} of {call} is {_what(obs)}") from error
        if part.shape != self._shapes[key]:
            raise EnvironmentFault(
                f"{self.name}: the observation{where} of {call} has shape {part.shape}, "
                f"and its space says {self._shapes[key]}"
            )
        return part.ravel()


def registered(package: str, env_id: str, **settings: Any) -> Any:
    """An environment that a package of `NEEDED` registers with Gymnasium, by its id.

    Raises ``ConfigError`` without the package or the simulator, and where the installed version does not know the id.
    """
    import gymnasium

    extra, versions = NEEDED[package]
    try:
        with redirect_stderr(StringIO()):  # a notice on dense Adroit rewards, which docs/adroit.md has too
            gymnasium.register_envs(import_module(package.replace("-", "_")))
        return gymnasium.make(env_id, disable_env_checker=True, **settings)
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise ConfigError(f"{env_id} needs {package}: pip install 'segue[{extra}]' ({error})") from error
    except gymnasium.error.Error as error:
        raise ConfigError(
            f"{env_id} cannot be made with {package} {version(package)} ({error}); needed is {package}{versions}: "
            f"pip install --upgrade 'segue[{extra}]'"
        ) from error


def pair(action: np.ndarray, name: str) -> tuple[float, float]:
    """The entries of an action [2], clipped to [-1, 1]. Raises ``ConfigError`` for its shape, ``Diverged`` for NaN."""
    if np.shape(action) != (2,):
        raise ConfigError(f"{name}: an action has shape {np.shape(action)}, and the task takes (2,)")
    x, y = float(action[0]), float(action[1])
    if math.isnan(x) or math.isnan(y):
        raise Diverged(f"{name}: the policy gave an action with NaN: {[x, y]}")
    return min(max(x, -1.0), 1.0), min(max(y, -1.0), 1.0)


def _numbers(episode: Any) -> dict[str, float]:
    """The finite numbers of a mapping by name, arrays of one included; others may put anything under "episode"."""
    kept = {}
    for name, value in episode.items() if isinstance(episode, Mapping) else ():
        try:
            array = np.asarray(value)
        except Exception:  # whatever the environment's own types raise
            continue
        if isinstance(name, str) and array.size == 1 and array.dtype.kind in "biuf" and np.isfinite(array).all():
            kept[name] = float(array.item())
    return kept


def _what(value: Any) -> str:
    return f"a {type(value).__name__} of {len(value)}" if isinstance(value, (tuple, list)) else type(value).__name__


def _observation_shapes(space: Any, name: str) -> dict[Any, tuple[int, ...]]:
    """Shape of each part of an observation; the only key is None for a plain Box."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        parts: dict[Any, Any] = dict(space.spaces)
        if not parts:
            raise ConfigError(f"{name}: the observation space is an empty Dict")
    else:
        parts = {None: space}
    for key, part in parts.items():
        where = "observation space" if key is None else f"observation space under {key!r}"
        if not isinstance(part, spaces.Box):
            raise ConfigError(f"{name}: the {where} is {type(part).__name__}; segue takes Box or a flat Dict of Box")
        if len(part.shape) > 1:
            raise ConfigError(f"{name}: the {where} has shape {part.shape}; segue takes vectors, not images")
    return {key: tuple(part.shape) for key, part in parts.items()}


def _action_bounds(space: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    from gymnasium import spaces

    if not isinstance(space, spaces.Box):
        raise ConfigError(f"{name}: the action space is {type(space).__name__}; segue takes continuous actions (Box)")
    if len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
        raise ConfigError(f"{name}: actions are {space.dtype} of shape {space.shape}; segue takes vectors of floats")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bad = ~(np.isfinite(low) & np.isfinite(high) & (low < high))
    if bad.any():
        i = int(np.argmax(bad))
        raise ConfigError(
            f"{name}: bounds of action {i} are [{low[i]}, {high[i]}]; segue needs finite bounds, low below high: "
            "wrap the environment in gymnasium.wrappers.RescaleAction or give its Box bounds"
        )
    return low, high
