"""Compiled programs kept from run to run: the command line's, by JAX's persistent cache.

    compiled/<jaxlib>-<machine>/*-cache     whole entries, for every later run
    compiled/<jaxlib>-<machine>/.own-*/     one process's own: links to all of those, and what it compiles itself

JAX writes an entry in place and never writes that name again, so one cut short by a kill or a full disk would be met
(with a warning, and compiled anew) by every run after it. Hence a process works in a folder of its own and publishes,
under names that are still free, what it finds whole between two steps. A folder whose process was killed is removed
unread by a later one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from segue.files import cache_root, replacing
from segue.runs.group import cores

LIMIT = 256 * 2**20  # bytes of all entries; the oldest go first
YOUNG = 600.0  # seconds in which a process has surely locked the folder that it made
MAPPINGS = 40_000  # of the 65,530 that Linux grants a process; a program holds up to 800, and LLVM aborts without
ENTRIES, OWN, LOCK = "*-cache", ".own-", "lock"
ZSTANDARD = b"\x28\xb5\x2f\xfd"
OPTIONS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_persistent_cache_enable_xla_caches": "none",  # the others put the folder's path into every entry's key
}


@contextmanager
def kept(say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """What is compiled in the block is kept for later runs; the function that it gives publishes what there is so far.

    That is to be called while nothing compiles. A cache that the user chose for JAX is left to JAX. Where the disk
    refuses, `say` is told so once and nothing is kept.
    """
    if _chosen():
        yield lambda: None
        return
    try:
        own = Own(cache_root() / "compiled")
    except OSError as error:
        say(f"note: compiled programs are not kept: {error.filename or cache_root()}: {error.strerror or error}")
        yield lambda: None
        return
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    for name, value in {**OPTIONS, "jax_compilation_cache_dir": str(own.folder)}.items():
        jax.config.update(name, value)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Error writing persistent compilation cache")  # a full disk
            yield own.publish
    finally:
        own.publish()
        for name, value in {**before, "jax_compilation_cache_dir": None}.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        own.close()


def forget_many() -> None:
    """Drop this process's compiled programs where they hold so many memory mappings that it would soon be ended."""
    with suppress(OSError):
        if Path("/proc/self/maps").read_bytes().count(b"\n") > MAPPINGS:
            jax.clear_caches()


def _chosen() -> str | None:
    return jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]


class Own:
    """This process's folder. Raises `OSError` where it cannot be made."""

    def __init__(self, root: Path) -> None:
        self.root, self.shared = root, root / f"{version('jaxlib')}-{machine()}"
        for folder in (self.root, self.shared):
            folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            about = folder.stat()
            if about.st_uid != os.getuid() or about.st_mode & 0o022:  # entries are code
                raise PermissionError(0, "others can write there", str(folder))
        _sweep(self.shared)
        self.folder = Path(tempfile.mkdtemp(prefix=OWN, dir=self.shared))
        try:
            self.lock = os.open(self.folder / LOCK, os.O_CREAT | os.O_WRONLY)  # held as long as the process lives
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for entry in self.shared.glob(ENTRIES):
                _link(entry, self.folder / entry.name, shutil.copyfile)
        except OSError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self.known = {entry.name for entry in self.folder.glob(ENTRIES)}

    def publish(self) -> None:
        """Share the whole entries that this process has made since the last call; a disk that refuses ends it."""
        new = [entry for entry in self.folder.glob(ENTRIES) if entry.name not in self.known]
        with suppress(OSError):
            for entry in new:
                self.known.add(entry.name)
                if _whole(entry):
                    _link(entry, self.shared / entry.name, _copy)
            if new:
                _prune(self.root)

    def close(self) -> None:
        os.close(self.lock)
        shutil.rmtree(self.folder, ignore_errors=True)


def machine() -> str:
    """Hash of what decides which code XLA makes and JAX's own key leaves out: the processor and how many cores."""
    about = [platform.machine(), platform.processor(), str(len(cores()))]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        about += [next((x for x in lines if x.startswith(name)), "") for name in ("model name", "flags", "Features")]
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:12]


def _link(source: Path, target: Path, copy: Callable[[Path, Path], object]) -> None:
    """`source` under the name `target` too, if that is free."""
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):  # another process was faster, with the same or with removing it
        return
    except OSError:  # a file system without links
        copy(source, target)


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as file:
        file.write(source.read_bytes())


def _whole(entry: Path) -> bool:
    """Whether all of it was written, as it can be decompressed to the end; then it is made durable."""
    with open(entry, "rb") as file:
        data = file.read()
        os.fsync(file.fileno())
    try:
        return bool(_decompress(data))
    except Exception:  # each library has an error of its own, and may be missing
        return False


def _decompress(data: bytes) -> bytes:
    """What JAX packed: by Zstandard where Python or a package has it, else by zlib."""
    if not data.startswith(ZSTANDARD):
        return zlib.decompress(data)
    try:
        zstd = import_module("compression.zstd")  # Python 3.14
    except ImportError:
        return import_module("zstandard").ZstdDecompressor().decompress(data)
    return zstd.decompress(data)


def _prune(root: Path) -> None:
    """Remove the oldest entries, of any version and machine, until the rest is within the limit."""
    entries = sorted((e.stat().st_mtime, e.stat().st_size, e) for e in root.glob(f"*/{ENTRIES}"))
    excess = sum(size for _, size, _ in entries) - LIMIT
    for _, size, entry in entries:
        if excess <= 0:
            break
        entry.unlink(missing_ok=True)
        excess -= size


def _sweep(shared: Path) -> None:
    """Remove folders whose process is gone: nobody holds their lock."""
    for folder in shared.glob(f"{OWN}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < YOUNG:
                continue
            with open(folder / LOCK, "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
