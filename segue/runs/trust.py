"""Which run directories this user made: only they may name code to import.

A run on ``--env module:Class`` imports that module when it is resumed. The name stands in a file, and a file from a
stranger must never run code: so `create` signs it with a secret of this user, and `resume` asks for a confirmation
(``segue resume DIR --env module:Class``) where the signature is not this user's own.
"""

from __future__ import annotations

import hmac
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from segue.errors import ConfigError
from segue.files import cache_root


def _secret() -> bytes:
    file = cache_root() / "secret"
    try:
        if not file.exists():
            _make(file)
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{file}: your secret, which signs runs on code of your own (--env module:Class), cannot be read or made "
            f"({error.strerror}); mend the rights or the room there, or set SEGUE_CACHE to a folder of yours"
        ) from error


def _make(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".secret.", dir=file.parent)  # readable by this user alone
    try:
        with open(handle, "wb") as f:
            f.write(secrets.token_bytes(32))
        with suppress(FileExistsError):
            os.link(temporary, file)  # the first of several processes wins
    finally:
        os.unlink(temporary)


def names_code(config: dict[str, Any]) -> str | None:
    """The ``module:Class`` that the configuration would import; None if it names none."""
    env = config["task"]["source"].get("env")
    return env if isinstance(env, str) and ":" in env else None


def sign(config: dict[str, Any]) -> str:
    """This user's signature under the code that a configuration names."""
    return hmac.new(_secret(), f"{config['digest']} {names_code(config)}".encode(), "sha256").hexdigest()


def check(config: dict[str, Any], confirmed: str | None = None) -> None:
    """Raises `ConfigError` where the configuration names code and neither signature nor `confirmed` vouches for it."""
    code = names_code(config)
    if code is None or code == confirmed:
        return
    if not hmac.compare_digest(str(config.get("signature", "")), sign(config)):
        raise ConfigError(
            f"this run was made elsewhere and would import {code!r}; if you know that code, confirm it: "
            f"segue resume DIR --env {code}"
        )
