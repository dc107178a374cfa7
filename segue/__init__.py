"""segue: offline-to-online reinforcement learning.

Pre-train a policy on a fixed dataset, hand it over to the real environment, and let it improve there without first
getting worse. ``segue.train`` does it in one call; ``segue --help`` shows the command line.
"""

from __future__ import annotations

import os
from typing import Any

__version__ = "0.1.0"

# On machines with few cores XLA's concurrent CPU schedule (jaxlib 0.10) can leave all its threads waiting for each
# other: two runs of three stood still within a minute on two cores, none with the sequential schedule
# (benchmarks/README.md).
_SCHEDULE = "--xla_cpu_enable_concurrency_optimized_scheduler"
if _SCHEDULE not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_SCHEDULE}=false".strip()


def __getattr__(name: str) -> Any:
    """``train`` and ``Result``, imported when first asked for: ``import segue`` alone loads no jax."""
    if name in ("train", "Result"):
        from segue import api

        return getattr(api, name)
    raise AttributeError(f"module 'segue' has no attribute {name!r}")
