"""Where segue keeps files of its own, and how it writes any: whole, or not at all, whenever it is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def cache_root() -> Path:
    """``$SEGUE_CACHE`` or ``~/.cache/segue``."""
    return Path(os.environ.get("SEGUE_CACHE") or Path.home() / ".cache" / "segue").expanduser()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """The new content of `path`: written beside it, flushed to disk, renamed at the block's end; dropped if it fails.

    Raises `OSError`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # makes the renaming durable
    finally:
        os.close(folder)
