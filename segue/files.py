"""Where segue keeps files of its own, and how it writes any: whole, or not at all, whenever it is killed."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

STALE = 86_400.0  # seconds after which no writer is still at its temporary file


def cache_root() -> Path:
    """``$SEGUE_CACHE`` or ``~/.cache/segue``."""
    return Path(os.environ.get("SEGUE_CACHE") or Path.home() / ".cache" / "segue").expanduser()


def size_text(n: float) -> str:
    """Bytes with a fitting unit: ``12.3 MB``."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= factor:
            return f"{n / factor:.3g} {unit}"
    return f"{n:.0f} B"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """The new content of `path`: written beside it, flushed to disk, renamed at the block's end; dropped if it fails.

    What killed writers of `path` left there is removed when it is `STALE`. Raises `OSError`.
    """
    _sweep(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with open(temporary, "xb") as file:  # O_CREAT | O_EXCL: it neither exists nor is a link
        try:
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


def _sweep(path: Path) -> None:
    """Remove temporary files of `path` that no living writer can still be at."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+\.tmp")
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name) and time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE:
                os.unlink(entry.path)
