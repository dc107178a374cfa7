"""Files of a run: written whole or not at all, read with their checksums; states as safetensors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from segue.errors import CheckpointError
from segue.files import replacing
from segue.runs.codec import flatten, unflatten


def write_atomically(path: Path, data: bytes) -> None:
    """`replacing` in one go. Raises `CheckpointError` where the disk refuses."""
    try:
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror or error}); what was saved before is untouched. "
            "Make room or rights, then: segue resume"
        ) from error


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_verified(path: Path, digest: str) -> bytes:
    """The file's bytes. Raises `CheckpointError` if it is missing or its checksum differs."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if sha256(data) != digest:
        raise CheckpointError(f"{path}: damaged, its checksum differs from the one recorded when it was written")
    return data


def read_json(path: Path) -> Any:
    """Parsed JSON. Raises `CheckpointError` naming the file."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error


def pack_state(value: Any) -> bytes:
    """A state as the bytes of one safetensors file; its structure stands in the file's metadata."""
    arrays: dict[str, np.ndarray] = {}
    spec = flatten(value, "state", arrays)
    contiguous = {k: np.ascontiguousarray(v).reshape(v.shape) for k, v in arrays.items()}
    return save_tensors(contiguous, metadata={"structure": json.dumps(spec)})


def unpack_state(data: bytes, path: Path) -> Any:
    """The inverse of `pack_state`; `path` is named in errors."""
    try:
        size = int.from_bytes(data[:8], "little")
        spec = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["structure"])
        return unflatten(spec, load_tensors(data))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a state that segue wrote ({error})") from error
