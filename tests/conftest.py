"""Shared set-up: segue before jax (it sets XLA's flags), compiled programs kept between test runs."""

from pathlib import Path

import segue  # noqa: F401  (first: it sets XLA_FLAGS)

import jax  # isort: skip

jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "segue" / "tests-xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def pytest_configure(config):
    # two test runs at once may meet a half-written entry; jax then warns and compiles
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache:UserWarning")
