"""Shared set-up: segue before jax (it sets XLA flags), compiled programs kept within one process, but not too many."""

import atexit
import shutil
import tempfile

import pytest

import segue  # noqa: F401  (first: it sets XLA_FLAGS)

from jaxtyping import install_import_hook  # isort: skip

install_import_hook(["segue.losses"], "beartype.beartype")  # shapes and types of its signatures

import jax  # isort: skip  # noqa: E402

# of this process alone: jax writes entries in place, and a half-written one is a warning, here an error
CACHE = tempfile.mkdtemp(prefix="segue-tests-xla-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(autouse=True)
def _few_mappings():
    """Hundreds of programs in one worker exhaust its memory mappings, and LLVM then ends it."""
    from segue.runs.compiled import forget_many

    yield
    forget_many()
