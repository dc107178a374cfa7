"""d3rlpy as a child process of ``updates.py``: times single rounds on request. Needs ``requirements-peers.txt`` only.

One JSON line in, ``{"learner": "IQL", "steps": 100}``; one out, ``{"seconds": ..., "cpu": ...}``. A gradient step is
what d3rlpy's own `fit` does between two log lines: sample a batch of transitions, `update` on it.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings

warnings.filterwarnings("ignore")
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # d3rlpy logs to standard output, which is the pipe

import numpy as np  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(len(os.sched_getaffinity(0)))  # as XLA: one per core that we may use

import d3rlpy  # noqa: E402
from d3rlpy.algos import CalQLConfig, CQLConfig, IQLConfig, SACConfig, TD3Config  # noqa: E402

CONFIGS = {"IQL": IQLConfig, "TD3": TD3Config, "SAC": SACConfig}  # all: hidden 256x256, two critics
CONFIGS |= {"CQL": CQLConfig, "Cal-QL": CalQLConfig}  # 3 x 10 sampled actions, Lagrange with threshold 10


def main() -> None:
    rows, obs, act, batch = (int(x) for x in sys.argv[1:5])
    rng = np.random.default_rng(0)
    f = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    timeouts = (np.arange(rows) % 1000 == 999).astype(np.float32)
    data = d3rlpy.dataset.MDPDataset(
        f(rows, obs), np.tanh(f(rows, act)), f(rows, 1), np.zeros(rows, np.float32), timeouts,
        action_space=d3rlpy.ActionSpace.CONTINUOUS,
    )  # fmt: skip
    algorithms = {}

    def answer(reply: dict) -> None:
        print(json.dumps(reply), file=answers, flush=True)

    answer({"torch": torch.__version__, "d3rlpy": d3rlpy.__version__, "threads": torch.get_num_threads()})
    for line in sys.stdin:
        request = json.loads(line)
        name = request["learner"]
        if name not in algorithms:
            algorithms[name] = CONFIGS[name](batch_size=batch).create(device="cpu:0")
            algorithms[name].build_with_dataset(data)
        algorithm = algorithms[name]
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(request["steps"]):
            algorithm.update(data.sample_transition_batch(batch))
        answer({"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu})


if __name__ == "__main__":
    main()
