"""Compiled programs kept from run to run: only whole ones are shared, whatever happens to the processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

import segue
from segue.runs import compiled
from segue.runs.compiled import LOCK, OWN, Own, kept

DATA = zlib.compress(os.urandom(3000))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "compiled"


def write(own, name, data=DATA):
    (own.folder / f"{name}-cache").write_bytes(data)


def shared(own):
    """Names of the shared entries, each of which must be whole."""
    entries = {p.name.removesuffix("-cache"): p.read_bytes() for p in own.shared.glob("*-cache")}
    assert all(zlib.decompress(data) for data in entries.values())
    return set(entries)


def own_folders(own):
    return {p.name for p in own.shared.glob(f"{OWN}*")}


def test_a_later_process_has_what_an_earlier_one_made(root):
    first = Own(root)
    write(first, "a")
    assert shared(first) == set()  # before it is published
    first.publish()
    write(first, "b")
    first.publish()
    second = Own(root)
    assert {p.name for p in second.folder.iterdir()} == {"a-cache", "b-cache", LOCK}
    write(second, "c")
    second.publish()
    assert shared(second) == {"a", "b", "c"}
    for own in (first, second):
        own.close()
    assert {p.name for p in first.shared.iterdir()} == {"a-cache", "b-cache", "c-cache"}


def test_of_two_processes_at_once_the_first_to_publish_stays(root):
    one, two = Own(root), Own(root)
    for own, data in ((one, DATA), (two, zlib.compress(b"other"))):
        write(own, "same", data)
        write(own, own.folder.name)
        own.publish()
    assert shared(one) == {"same", one.folder.name, two.folder.name}
    assert (one.shared / "same-cache").read_bytes() == DATA


@pytest.mark.parametrize("end", [0, 1, 100, len(DATA) - 1])
def test_an_entry_cut_short_is_not_shared(end, root):
    own = Own(root)
    write(own, "cut", DATA[:end])
    write(own, "whole")
    own.publish()
    own.publish()
    assert shared(own) == {"whole"}


def zstandard(present):
    """Stands in for the package of that name, which need not be installed: a frame says how long it is."""

    class Decompressor:
        def decompress(self, data):
            if len(data) != data[4]:
                raise ValueError("did not decompress full frame")
            return data[5:]

    return SimpleNamespace(ZstdDecompressor=Decompressor) if present else None


@pytest.mark.parametrize(("present", "names"), [(True, {"whole"}), (False, set())])
def test_an_entry_of_zstandard_cut_short_is_not_shared(present, names, root, monkeypatch):
    """Nor is one that nobody here can read."""
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "zstandard", zstandard(present))
    own = Own(root)
    whole = compiled.ZSTANDARD + bytes([25]) + bytes(range(20))
    write(own, "whole", whole)
    for end in (4, 5, 24):
        write(own, f"cut{end}", whole[:end])
    own.publish()
    assert {p.name.removesuffix("-cache") for p in own.shared.glob("*-cache")} == names


def test_nobody_else_can_write_among_the_shared_entries(root):
    before = os.umask(0)
    try:
        own = Own(root)
    finally:
        os.umask(before)
    assert [folder.stat().st_mode & 0o777 for folder in (root, own.shared)] == [0o700, 0o700]
    own.close()
    own.shared.chmod(0o770)
    with pytest.raises(PermissionError, match="others can write there"):
        Own(root)
    assert list(own.shared.iterdir()) == []


def test_only_entries_are_shared(root):
    own = Own(root)
    (own.folder / "a-atime").write_bytes(b"12345678")
    own.publish()
    assert list(own.shared.glob("a*")) == []


def test_the_folder_of_a_killed_process_is_removed_unread(root):
    code = (
        "import os, signal, pathlib; from segue.runs.compiled import Own; "
        f"own = Own(pathlib.Path({str(root)!r})); (own.folder / 'x-cache').write_bytes({DATA[:50]!r}); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert python(code).returncode == -signal.SIGKILL
    living = Own(root)
    (left,) = own_folders(living) - {living.folder.name}
    long_ago = time.time() - 3600
    os.utime(living.folder, (long_ago, long_ago))
    Own(root)
    assert own_folders(living) >= {left, living.folder.name}  # it is young: perhaps not locked yet
    os.utime(living.shared / left, (long_ago, long_ago))
    os.utime(living.folder, (long_ago, long_ago))
    last = Own(root)
    assert left not in own_folders(last)
    assert living.folder.name in own_folders(last)  # locked
    assert shared(last) == set()


def test_the_oldest_entries_go_first(root, monkeypatch):
    monkeypatch.setattr(compiled, "LIMIT", 4 * len(DATA))
    old = root / "0.0-other" / "old-cache"
    own = Own(root)
    old.parent.mkdir()
    old.write_bytes(DATA)
    os.utime(old, (1, 1))
    for i, name in enumerate("abcdef"):
        write(own, name)
        os.utime(own.folder / f"{name}-cache", (10 + i, 10 + i))
        own.publish()
    assert shared(own) == set("cdef")
    assert not old.exists()


def test_a_file_system_without_links(root, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    own = Own(root)
    write(own, "a")
    own.publish()
    assert shared(own) == {"a"}
    assert (Own(root).folder / "a-cache").read_bytes() == DATA


def test_a_disk_that_fills_up_ends_publishing_and_nothing_else(root, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    own = Own(root)
    for name in "ab":
        write(own, name)
    with monkeypatch.context() as m:
        m.setattr(os, "link", full)
        m.setattr(compiled, "_copy", full)
        own.publish()
    assert shared(own) == set()
    own.close()


def test_where_nothing_can_be_kept_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.config, "update", None)  # never reached
    monkeypatch.setattr(compiled, "_chosen", lambda: None)
    (tmp_path / "file").write_text("x")
    (tmp_path / "open" / "compiled").mkdir(parents=True)
    (tmp_path / "open" / "compiled").chmod(0o777)
    for folder, reason in (("file", "Not a directory"), ("open", "others can write there")):
        said = []
        monkeypatch.setenv("SEGUE_CACHE", str(tmp_path / folder))
        with kept(said.append) as publish:
            publish()
        assert len(said) == 1
        assert said[0].startswith("note: compiled programs are not kept: ")
        assert said[0].endswith(reason)
    assert list((tmp_path / "open" / "compiled").iterdir()) == []


def test_a_cache_of_the_users_own_is_left_to_jax(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGUE_CACHE", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    assert before  # conftest's
    with kept(print) as publish:
        publish()
        assert jax.config.jax_compilation_cache_dir == before
    assert list(tmp_path.iterdir()) == []


def test_programs_are_forgotten_before_the_process_runs_out_of_mappings(monkeypatch):
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(True))
    compiled.forget_many()
    assert not cleared
    monkeypatch.setattr(compiled, "MAPPINGS", 10)
    compiled.forget_many()
    assert cleared == [True]


PROGRAM = """
import json, sys
import segue, jax, jax.numpy as jnp
from segue.runs.compiled import kept
counts = {}
jax.monitoring.register_event_listener(lambda name, **_: counts.update({name: counts.get(name, 0) + 1}))
with kept(print):
    print(jax.config.jax_compilation_cache_dir, file=sys.stderr)
    jax.jit(lambda x: jnp.tanh(x @ x).sum())(jnp.ones((8, 8))).block_until_ready()
print(json.dumps({name.rpartition("/")[2]: n for name, n in counts.items()}))
"""


def python(code, **env):
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | env
    env["PYTHONPATH"] = str(Path(segue.__file__).parents[1])
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


def test_a_second_process_compiles_nothing(tmp_path):
    """In spite of its own folder's name, which is another one."""
    outs = [python(PROGRAM, SEGUE_CACHE=str(tmp_path)) for _ in range(2)]
    assert outs[0].stderr != outs[1].stderr
    first, second = (json.loads(out.stdout) for out in outs)
    n = first["compile_requests_use_cache"]
    assert first["cache_misses"] == n > 0
    assert "cache_misses" not in second
    assert second["cache_hits"] == second["compile_requests_use_cache"] == n
    entries = list((tmp_path / "compiled").glob("*/*"))
    assert len(entries) == n  # and no folder is left behind
    assert all(zlib.decompress(p.read_bytes()) for p in entries)
