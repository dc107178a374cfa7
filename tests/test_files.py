"""Files are written whole or not at all, and never through a name that somebody else has laid there."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

import pytest

from segue.files import replacing


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    monkeypatch.setattr(secrets, "token_hex", lambda _: "ab")  # even where the name is guessed
    for name in ("ab", str(os.getpid())):
        (tmp_path / f".file.{name}.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError), replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / ".file.ab.tmp").is_symlink()  # another's: left as it is
    monkeypatch.undo()
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file"):
        raise ZeroDivisionError
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"old"}


def test_what_killed_writers_left_is_swept_a_day_later(tmp_path: Path) -> None:
    names = [".file.0123abcd.tmp", ".file.77.tmp", ".file.ffff.tmp", ".other.0123abcd.tmp", ".file.mine.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"torn")
        if name != ".file.ffff.tmp":  # one is young
            os.utime(tmp_path / name, (0, time.time() - 90_000))
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert {p.name for p in tmp_path.iterdir()} == {"file", *names[2:]}
