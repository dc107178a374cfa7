"""Checkpoints of a run: one file of state, append-only segments of the ring's rows, a manifest renamed last.

    checkpoints/manifest.json, manifest.previous.json     what belongs together, with checksums
    checkpoints/state-<n>.safetensors                     everything but the ring's rows
    checkpoints/ring-<n>-<first>-<end>.npy                rows first..end-1 of all rows ever written

A kill at any moment leaves the manifest before or the one after. A damaged file is noticed by its checksum and the
checkpoint before it is used instead, aloud.
"""

from __future__ import annotations

import io
import json
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segue.errors import CheckpointError
from segue.phases import RunState
from segue.runs.codec import dumps
from segue.runs.files import pack_state, read_json, read_verified, sha256, unpack_state, write_atomically
from segue.store import Ring

FORMAT = 1
MANIFEST, PREVIOUS = "manifest.json", "manifest.previous.json"
_NUMBERED = re.compile(r"(?:state|ring)-(\d+)[-.]")


@partial(jax.jit, static_argnames="n")
def _take(rows: jax.Array, first: jax.Array, n: int) -> jax.Array:
    return rows[(first + jnp.arange(n)) % rows.shape[0]]


def _rows(ring: Ring, first: int, end: int) -> np.ndarray:
    """Rows `first` to `end` - 1 of all ever written; only these leave the device."""
    if end <= first:
        return np.zeros((0, ring.rows.shape[1]), np.float32)
    padded = 1 << (end - first - 1).bit_length()  # few lengths, so few compilations
    return np.asarray(_take(ring.rows, np.int32(first % ring.capacity), padded))[: end - first]


def _digest(manifest: dict[str, Any]) -> str:
    return sha256(dumps({k: v for k, v in manifest.items() if k != "sha256"}).encode())


class Checkpoints:
    """The checkpoints of one run. `save` and `load` keep track of which rows lie on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0
        self.seconds = 0.0  # spent on saving, all sessions
        self.segments: list[dict[str, Any]] = []
        self.whole: bytes | None = None  # the manifest of the last checkpoint known to be whole

    @property
    def saved_rows(self) -> int:
        return self.segments[-1]["end"] if self.segments else 0

    def save(self, state: RunState, metrics_bytes: int) -> None:
        """Make `state` durable; `metrics_bytes` is the length of the metrics that belong to it.

        Raises `CheckpointError` on a full disk; the checkpoint before is then untouched.
        """
        clock, before = time.monotonic(), self.seconds
        self.folder.mkdir(parents=True, exist_ok=True)
        ring, end, number = state.ring, state.env_steps, self.number + 1
        oldest = max(0, end - ring.capacity)
        segments = [s for s in self.segments if s["end"] > oldest]
        first = max(self.saved_rows, oldest)
        if end > first:
            data = io.BytesIO()
            np.save(data, _rows(ring, first, end), allow_pickle=False)
            name = f"ring-{number}-{first}-{end}.npy"
            write_atomically(self.folder / name, data.getvalue())
            segments = [*segments, {"file": name, "first": first, "end": end, "sha256": sha256(data.getvalue())}]

        name = f"state-{number}.safetensors"
        light = state._replace(ring=Ring(jnp.zeros((0, ring.rows.shape[1])), ring.mc_return, ring.written))
        data = pack_state(light)
        write_atomically(self.folder / name, data)
        manifest = {
            "format": FORMAT,
            "number": number,
            "state": {"file": name, "sha256": sha256(data)},
            "segments": segments,
            "capacity": ring.capacity,
            "metrics_bytes": metrics_bytes,
            "phase": state.phase,
            "step": state.step,
            "seconds": {"run": round(state.wall, 3), "saving": round(before + time.monotonic() - clock, 3)},
        }
        manifest["sha256"] = _digest(manifest)
        if self.whole is not None:  # not the file of that name: it may be a damaged one
            write_atomically(self.folder / PREVIOUS, self.whole)
        whole = json.dumps(manifest, indent=1).encode()
        write_atomically(self.folder / MANIFEST, whole)
        self.number, self.segments, self.whole = number, segments, whole
        self._tidy()
        self.seconds = before + time.monotonic() - clock

    def _tidy(self) -> None:
        """Remove files that neither manifest names."""
        named = {MANIFEST, PREVIOUS}
        for manifest in (MANIFEST, PREVIOUS):
            try:
                m = read_json(self.folder / manifest)
            except CheckpointError:
                continue
            named |= {m["state"]["file"], *(s["file"] for s in m["segments"])}
        for path in self.folder.iterdir():
            if path.name not in named:
                path.unlink(missing_ok=True)

    def exists(self) -> bool:
        return (self.folder / MANIFEST).exists() or (self.folder / PREVIOUS).exists()

    def load(self) -> tuple[RunState, int, str | None]:
        """The newest whole checkpoint: state, length of its metrics, and a notice if a newer one was damaged.

        Raises `CheckpointError` naming each damaged file if none is whole.
        """
        failures = []
        for name in (MANIFEST, PREVIOUS):
            try:
                state, manifest = self._read(self.folder / name)
            except CheckpointError as error:
                failures.append(str(error))
                continue
            notice = None
            if failures:
                notice = (
                    f"{failures[0]}; going on from the checkpoint before it (phase {state.phase}, step {state.step})"
                )
            used = (_NUMBERED.match(p.name) for p in self.folder.iterdir())
            self.number = max([manifest["number"], *(int(m[1]) for m in used if m)])  # no name is given twice
            self.segments, self.whole = manifest["segments"], json.dumps(manifest, indent=1).encode()
            self.seconds = manifest.get("seconds", {}).get("saving", 0.0)
            return state, manifest["metrics_bytes"], notice
        raise CheckpointError(
            "no checkpoint is whole: " + "; ".join(failures) + ". Start the run again in another folder "
            "(--out), or from its pre-trained phase (segue run ... --from RUN)"
        )

    def _read(self, path: Path) -> tuple[RunState, dict[str, Any]]:
        manifest = read_json(path)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise CheckpointError(f"{path}: not a checkpoint of format {FORMAT}")
        if manifest.get("sha256") != _digest(manifest):
            raise CheckpointError(f"{path}: damaged, its checksum differs from the one recorded when it was written")
        try:
            file = self.folder / Path(manifest["state"]["file"]).name
            state = unpack_state(read_verified(file, manifest["state"]["sha256"]), file)
            if not isinstance(state, RunState):
                raise CheckpointError(f"{file}: holds no run's state")
            rows = np.zeros((manifest["capacity"], state.ring.rows.shape[1]), np.float32)
            for segment in manifest["segments"]:
                file = self.folder / Path(segment["file"]).name
                part = np.load(io.BytesIO(read_verified(file, segment["sha256"])), allow_pickle=False)
                oldest = max(segment["first"], state.env_steps - len(rows))
                numbers = np.arange(oldest, segment["end"])
                rows[numbers % len(rows)] = part[numbers - segment["first"]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error})") from error
        ring = Ring(jnp.array(rows), state.ring.mc_return, state.ring.written)
        return state._replace(ring=ring), manifest

    def rewrite_from(self, row: int) -> None:
        """The next `save` writes rows from `row` on again (their flags changed)."""
        self.segments = [s if s["end"] <= row else s | {"end": row} for s in self.segments if s["first"] < row]
