"""How much memory a dataset may take."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from segue.errors import ConfigError, DataError
from segue.files import size_text

COPIES = 2  # of a dataset in a run's memory: its columns and the store
SHARE = 0.5  # of the machine's memory that a dataset may take
PIECES = 8  # into which data as large as the memory are cut
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def bytes_of(text: str) -> int:
    """``"4GiB"``, ``"500M"`` or a bare number of bytes. Raises ``ConfigError``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"memory limit {text!r}: give a number of bytes over 0, or one with a unit, such as 4GiB")
    return math.ceil(float(match[1]) * UNITS[match[2]])


def memory_limit() -> int:
    """Bytes that a dataset may take: ``$SEGUE_MEMORY_LIMIT``, else half of the machine's (or container's) memory."""
    if given := os.environ.get("SEGUE_MEMORY_LIMIT"):
        return bytes_of(given)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # "max", or no such file
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return int(SHARE * total)


_ON_DISK: ContextVar[bool] = ContextVar("on_disk", default=False)


@contextmanager
def left_on_disk(always: bool) -> Iterator[None]:
    """Within it, and if `always`, folders of ours stay on disk however small they are: as in the run that goes on."""
    token = _ON_DISK.set(always)
    try:
        yield
    finally:
        _ON_DISK.reset(token)


def fits(size: int) -> bool:
    """Whether columns of `size` bytes may be held in memory."""
    return COPIES * size <= memory_limit()


def stays_on_disk(size: int) -> bool:
    """Whether a folder of ours of `size` bytes is left on disk."""
    return _ON_DISK.get() or not fits(size)


def pieces_of(size: int) -> int:
    """Into how many pieces columns of `size` bytes are cut."""
    return 1 + PIECES * COPIES * size // memory_limit()


def check_fits(path: Path | str, size: int) -> None:
    """Raises ``DataError`` with the way out unless columns of `size` bytes may be held in memory."""
    if not fits(size):
        file = shlex.quote(str(path))
        way_out = f"segue data import {file} --out {shlex.quote(Path(path).stem)}.segue (and its --task or --env)"
        if Path(path).suffix.lower() not in (".hdf5", ".h5"):
            way_out = "bring it into D4RL's HDF5 layout, which segue imports piece by piece (docs/formats.md)"
        raise DataError(
            f"{path}: its columns take {size_text(size)}, twice that in training, and {size_text(memory_limit())} may "
            f"be used; allow more (--memory-limit), or train from disk: {way_out}"
        )
