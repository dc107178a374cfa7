"""Training from disk: updates a second of IQL on rows that stay on disk, against the same rows in memory.

    python benchmarks/disk.py --json disk.json [--folder DIR]

A folder of ten times the memory limit is written (1.25 GiB by a limit of 128 MiB; `--folder` says on which disk), then
stretches of offline updates alternate: in memory; from disk, its pages in the system's cache; from disk, the pages
dropped before every stretch (`posix_fadvise`), as with data that no cache can hold. The rows are the same.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import common
import jax
import numpy as np

from segue import phases
from segue.store import Store, make_store
from segue.tasks.dataset import Dataset, closed
from segue.tasks.formats import disk

LIMIT, TIMES = 128 * 2**20, 10  # bytes; the folder's size in limits
STEPS, ROUNDS = 400, 7
WIDTH = 2 * common.OBS + common.ACT + 4


def pieces(rows: int, length: int = 1000) -> Iterator[Dataset]:
    """Synthetic episodes, 200,000 rows at a time."""
    for start in range(0, rows, common.ROWS):
        n = min(common.ROWS, rows - start)
        d = common.dataset(n)
        end = np.arange(n) % length == length - 1
        end[-1] = True
        columns = (d.obs, np.clip(d.action, -1, 1), d.reward, d.next_obs, np.zeros(n, bool), end)
        yield closed(Dataset(*columns, name="synthetic"))


class Updates:
    """Calling it runs a stretch of updates; seconds an update."""

    def __init__(self, store: Store, before: Callable[[], None] = lambda: None) -> None:
        self.store, self.before, self.done = store, before, 0
        work = phases.Work(common.LEARNERS["IQL"], phases.Uniform(), phases.Nothing(), phases.Affine(), common.BATCH)
        parts = phases.Parts(work.learner.init(jax.random.key(0), common.SPEC), (), ())
        names = jax.eval_shape(lambda p, k: phases.metrics_of(work, store, p, k), parts, jax.random.key(1))
        self.work, self.parts, self.sums = work, parts, phases.blank_sums(names)
        self()

    def __call__(self) -> float:
        self.before()
        n, key = phases.BLOCK, jax.random.key(2)
        blocks = STEPS // n
        clock = time.perf_counter()
        if self.store.disk is None:
            first, blocks_ = np.int32(self.done), np.int32(blocks)
            self.parts, self.sums = phases.update_many(
                self.work, n, blocks_, self.store, self.parts, self.sums, key, first
            )
        else:
            self.parts, self.sums = phases.update_from_disk(
                self.work, n, blocks, self.store, self.parts, self.sums, key, self.done
            )
        jax.block_until_ready(self.sums.count)
        self.done += blocks * n
        return (time.perf_counter() - clock) / (blocks * n)


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--folder", type=Path, help="where the data are written (default: the temporary folder)")
    args = parser.parse_args()
    limit, rounds = (LIMIT // 64, 2) if args.quick else (LIMIT, ROUNDS)
    rows = TIMES * limit // (4 * WIDTH)
    machine = common.Machine()
    with tempfile.TemporaryDirectory(dir=args.folder) as made:
        path = Path(made) / "data.segue"
        disk.write_pieces(pieces(rows), path)
        read: dict[str, Dataset] = {}
        for name, size in (("memory", 2**40), ("disk", limit)):
            os.environ["SEGUE_MEMORY_LIMIT"] = str(size)
            read[name] = disk.read(path)
        stores = {name: make_store(common.SPEC, dataset, 1) for name, dataset in read.items()}
        assert stores["memory"].disk is None
        assert stores["disk"].disk is not None

        def drop() -> None:
            with open(path / "rows.f32", "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

        forms = {
            "in memory": Updates(stores["memory"]),
            "from disk, cached": Updates(stores["disk"]),
            "from disk, cache dropped": Updates(stores["disk"], drop),
        }
        samples, _ = common.rounds(forms, rounds)
    report = machine.report()
    table = [
        [
            name,
            f"{1e3 * median(s):.2f}",
            f"{common.ratio(samples['in memory'], s):.2f}",
            "0.7" if "disk" in name else "",
        ]
        for name, s in samples.items()
    ]
    title = f"IQL on {rows:,} rows, {TIMES} x the limit of {limit / 2**20:.0f} MiB, medians of {rounds} rounds"
    common.show(report, title, ["rows", "ms an update", "speed", "target"], table, None)
    common.write(args.json, {"benchmark": "disk", "machine": report, "rows": rows, "samples": samples})


if __name__ == "__main__":
    main()
