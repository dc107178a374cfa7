"""Shared set-up: segue before jax (it sets XLA's flags), compiled programs kept within one process."""

import atexit
import shutil
import tempfile

import segue  # noqa: F401  (first: it sets XLA_FLAGS)

import jax  # isort: skip

# of this process alone: jax writes entries in place, and reading a half-written one ends the process
CACHE = tempfile.mkdtemp(prefix="segue-tests-xla-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
