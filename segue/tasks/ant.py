"""An ant that runs along +x, steered into any direction by its symmetries.

A policy of Gymnasium's ant sees the 27 entries of its observation: height, orientation (w, x, y, z) and 8 joint angles,
then linear velocity in the world's axes, angular velocity in the torso's, and 8 joint velocities. Two symmetries leave
the dynamics on a plane as they are:

1. *The world turned about z.* The orientation is turned, the linear velocity too; all else is in the torso's axes.
2. *The legs relabelled.* The body is the same after a quarter turn about its own z. The torso's axes are turned, the
   legs change places, and an ankle changes sign where its axis points the other way.

By the first a direction becomes +x; by the second the torso's yaw, whatever it was, comes within 45 degrees of it,
which a policy knows that was trained from a yaw of 0. Actions are mapped back. Which joint takes which place, and with
which sign, is read off the MuJoCo model (`quarter_turns`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from segue.tasks.locomotion import Net, act

QUARTER = math.pi / 2
ORIENTATION, ANGLES = slice(1, 5), slice(5, 13)  # of the 27 entries
VELOCITY, SPIN, SPEEDS = slice(13, 16), slice(16, 19), slice(19, 27)  # of torso, about its axes, of joints


@dataclass(frozen=True, eq=False)
class Turn:
    """The torso's axes turned by ``k`` quarters about z: entry n of the relabelled joints is ``signs[n]`` times entry
    ``joints[n]`` of the body's, both in the order of the observation; of motors likewise, in the order of the action.
    """

    k: int
    joints: np.ndarray  # [8] int64
    signs: np.ndarray  # [8] float64, -1 or 1
    motors: np.ndarray  # [8] int64
    motor_signs: np.ndarray  # [8] float64

    def observation(self, obs: np.ndarray) -> np.ndarray:
        """The observation [27] in the turned axes, float64."""
        c, s = _cos_sin(self.k)
        seen = np.array(obs, np.float64)
        half = self.k * QUARTER / 2
        seen[ORIENTATION] = _product(seen[ORIENTATION], (math.cos(half), 0.0, 0.0, math.sin(half)))
        x, y = seen[16], seen[17]
        seen[16], seen[17] = c * x + s * y, c * y - s * x
        seen[ANGLES] = self.signs * seen[ANGLES][self.joints]
        seen[SPEEDS] = self.signs * seen[SPEEDS][self.joints]
        return seen

    def action(self, action: np.ndarray) -> np.ndarray:
        """The body's action [8] for one in the turned axes."""
        own = np.empty_like(action)
        own[self.motors] = self.motor_signs * action
        return own


def quarter_turns(model: Any) -> tuple[Turn, ...]:
    """The four turns of an ant, no turn first, from the anchors and axes of its hinges (``mujoco.MjModel``)."""
    mujoco = import_module("mujoco")
    data = mujoco.MjData(model)  # in the reference pose, the torso's axes along the world's
    mujoco.mj_kinematics(model, data)
    hinges = [j for j in range(model.njnt) if int(model.jnt_type[j]) == int(mujoco.mjtJoint.mjJNT_HINGE)]
    torso = data.xpos[1]  # body 0 is the world
    anchors, axes = data.xanchor[hinges] - torso, data.xaxis[hinges]  # [8, 3]
    of_motor = np.array([hinges.index(int(j)) for j in model.actuator_trnid[:, 0]])
    motor_of = np.argsort(of_motor)  # joint -> motor

    def turn(k: int) -> Turn:
        c, s = _cos_sin(k)
        rotation = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        distances = np.linalg.norm(anchors[None] - (anchors @ rotation.T)[:, None], axis=-1)  # [8, 8]
        joints = distances.argmin(1)
        signs = np.sign(((axes @ rotation.T) * axes[joints]).sum(1))
        return Turn(k, joints, signs, motor_of[joints[of_motor]], signs[of_motor])

    return tuple(turn(k) for k in range(4))


def facing(obs: np.ndarray, heading: float) -> np.ndarray:
    """The observation [27] in a world turned so that `heading` (radians from +x, counter-clockwise) is its +x."""
    c, s = math.cos(heading), math.sin(heading)
    seen = np.array(obs, np.float64)
    seen[ORIENTATION] = _product((math.cos(heading / 2), 0.0, 0.0, -math.sin(heading / 2)), seen[ORIENTATION])
    x, y = seen[13], seen[14]
    seen[13], seen[14] = c * x + s * y, c * y - s * x
    return seen


def yaw(orientation: np.ndarray) -> float:
    """Angle of the torso's x axis in the plane, radians from +x."""
    w, x, y, z = orientation.tolist()
    return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


class Steered:
    """A policy that runs along +x (`net`, as `segue.tasks.locomotion.read_behaviours` gives it), sent anywhere."""

    def __init__(self, net: Net, model: Any) -> None:
        self._net, self._turns = net, quarter_turns(model)

    def __call__(self, obs: np.ndarray, heading: float) -> np.ndarray:
        """The action [8] in (-1, 1) that runs along `heading` (radians) from an observation [27], without noise."""
        seen = facing(obs, heading)
        turn = self._turns[-round(yaw(seen[ORIENTATION]) / QUARTER) % 4]
        seen = turn.observation(seen)
        if seen[1] < 0:  # q and -q are one orientation; the policy knows w > 0
            seen[ORIENTATION] *= -1
        return turn.action(act(self._net, seen, np.zeros(len(turn.motors))))


def _cos_sin(k: int) -> tuple[float, float]:
    """Of k quarters, exact."""
    return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[k % 4]


def _product(p: Any, q: Any) -> np.ndarray:
    """The Hamilton product of quaternions (w, x, y, z): q first, then p."""
    a, b, c, d = p
    w, x, y, z = q
    return np.array(
        (
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        )
    )
