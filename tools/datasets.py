"""Make the datasets of named tasks, publish their checksums, and write the page of their statistics and pictures.

    python tools/datasets.py                       # the page anew, from what was recorded
    python tools/datasets.py hopper-medium ant-random

Records ``docs/datasets.json``, writes ``docs/datasets.md``, ``docs/pictures/`` and ``segue/tasks/checksums.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

from segue import tasks
from segue.runs.run import commit
from segue.tasks import pictures

ROOT = Path(__file__).resolve().parents[1]
RECORD, PAGE, DRAWN = (ROOT / "docs" / name for name in ("datasets.json", "datasets.md", "pictures"))
CHECKSUMS = ROOT / "segue" / "tasks" / "checksums.json"
# packages that move the rows
VERSIONS = ("mujoco", "gymnasium", "gymnasium-robotics", "ogbench", "dm-control", "scipy", "numpy")
HEAD = """# Datasets that segue makes

`segue data make NAME` rolls them out on your machine; `segue data info NAME --picture FILE.png` draws one. None of them
is D4RL's, whatever the level is called: scores compare only on the same rows. The same rows come out with the same
simulator; their checksums are published with the code, and a set that differs says so. Made by
`python tools/datasets.py NAME ...`; a score is the mean over the data's episodes on the task's reference.

"""


def record(name: str, code: str) -> dict[str, Any]:
    """Makes the dataset and draws it; what the page says of it. `code` is the commit it is made with."""
    began = time.perf_counter()
    task = tasks.get(name, message=print, force=True)
    dataset = task.dataset
    seconds = time.perf_counter() - began
    told = tasks.manifest(dataset, task.score_reference)
    DRAWN.mkdir(exist_ok=True)
    pictures.save(pictures.overview(dataset, pictures.ground(name)), DRAWN / f"{name}.png")
    kept = ("name", "rows", "episodes", "return", "length", "terminals", "timeouts", "reference", "hash", "transforms")
    versions = {key: value for key, value in told["versions"].items() if key in VERSIONS}
    machine = f"{platform.system()} {platform.machine()}"
    made = {"seconds": round(seconds, 1), "commit": code, "machine": machine, "versions": versions}
    return {key: told[key] for key in kept} | made | {"asked": told["info"].get("rows", told["rows"])}


def row(name: str, told: dict[str, Any]) -> str:
    low, mean, high = (f"{told['return'][key]:,.4g}" for key in ("min", "mean", "max"))
    reference = told["reference"] or {}
    score = "-" if reference.get("score") is None else f"{reference['score']:.1f} ({reference['name']})"
    length = f"{told['length']['mean']:,.0f}"
    cells = [f"[{name}](pictures/{name}.png)", f"{told['rows']:,}", f"{told['episodes']:,}", f"{low}, {mean}, {high}"]
    return "| " + " | ".join([*cells, length, f"{told['terminals']:,}", score, f"{told['seconds']:.0f} s"]) + " |"


def page(records: dict[str, Any]) -> str:
    """The page in Markdown, tasks in the catalogue's order."""
    order = [name for name in tasks.names() if name in records]
    titles = "task | rows | episodes | return: min, mean, max | mean length | terminal | score | made in"
    lines = [f"| {titles} |", "| --- " * 8 + "|", *(row(name, records[name]) for name in order), ""]
    for name in order:
        one = records[name]
        versions = ", ".join(f"{key} {value}" for key, value in one["versions"].items())
        lines += [f"- {name}: commit {one['commit']}, {versions}, SHA-256 `{one['hash'][:16]}...`"]
    mazes = [name for name in order if pictures.ground(name) is not None]
    lines += ["", "## Where the data of the mazes lie", "", "Dashed: regions that a filter cleared.", ""]
    lines += [f"![{name}](pictures/{name}.png)" for name in mazes]
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    a = parser.parse_args()
    records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    checksums = json.loads(CHECKSUMS.read_text())
    code = commit()  # before the first file of this run is written
    for name in a.names:
        records[name] = one = record(name, code)
        if not one["transforms"]:  # what is filtered follows from what is not
            checksums[one["name"]] = {"hash": one["hash"], "rows": one["asked"], "versions": one["versions"]}
        print(row(name, one), flush=True)
        RECORD.write_text(json.dumps(records, indent=1) + "\n")
        CHECKSUMS.write_text(json.dumps(checksums, indent=1) + "\n")
    PAGE.write_text(page(records))


if __name__ == "__main__":
    main()
