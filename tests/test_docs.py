"""What the documents say is what the code says."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from segue import tasks
from segue.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]


def tool(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_method_reference_is_up_to_date() -> None:
    methods = tool("methods")
    written = (ROOT / "docs" / "methods.md").read_text()
    assert written == methods.render(), "run: python tools/methods.py"
    assert "`(`" not in written  # a field on several lines, of which the tool reads the first


def test_method_reference_has_every_page() -> None:
    methods, pages = tool("methods"), lambda folder: {p.stem for p in (ROOT / "segue" / folder).glob("[a-z]*.py")}
    assert set(methods.PAGES) == pages("learners")
    assert set(methods.REPLAYS) == pages("replays") - {"episodes", "sumtree"}  # what replays are made of


def test_readme_names_every_method() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in RECIPES)


def test_the_verdict_on_cql_is_what_the_runs_say() -> None:
    data = ROOT / "docs" / "results" / "data" / "conservative"
    text = (ROOT / "docs" / "results" / "conservative.md").read_text()
    printed = tool("finding").markdown(data, ["cql", "calql"])
    told = [line for line in printed.splitlines() if line.startswith(("| ", "- ")) and "phases.offline" not in line]
    assert all(line in text for line in told)
    low, high = (tuple(map(float, re.findall(r"\[(.+?), (.+?)\]", line)[0])) for line in told[-2:])
    assert max(low[0], high[0]) < min(low[1], high[1])  # they overlap
    assert low[1] < 0
    assert "That Cal-QL differs is open" in text


def test_every_dataset_that_segue_makes_has_its_statistics_and_picture() -> None:
    told = json.loads((ROOT / "docs" / "datasets.json").read_text())
    made = [name for name in tasks.names() if tasks.get(name).load_dataset is not None]
    assert sorted(told) == sorted(made)
    assert all((ROOT / "docs" / "pictures" / f"{name}.png").is_file() for name in made)


def test_the_verdict_on_hopper_is_what_the_runs_say() -> None:
    finding, data = tool("finding"), ROOT / "docs" / "results" / "data" / "hopper"
    text = (ROOT / "docs" / "results" / "hopper.md").read_text()
    table = [line for line in finding.markdown(data, ["direct", "pex"]).splitlines() if line.startswith("| ")]
    assert all(line in text for line in table)
    runs = {arm: [finding.summarise(r) for r in finding.records(data, arm)] for arm in ("direct", "pex")}
    verdict = " ".join(text.split())
    for arm, name in (("direct", "direct"), ("pex", "PEX")):
        best = [s.best_score for s in runs[arm]]
        assert f"{name} peaks at {min(best):.1f} to {max(best):.1f}" in verdict
    falls = [s.offline_score - s.handover_score for s in runs["pex"]]
    below = [x for x in falls if x > 0]
    assert f"lower on four seeds of five (by {min(below):.1f} to {max(below):.1f} points), higher on seed 1" in verdict
    assert [x < 0 for x in falls] == [False, True, False, False, False]
    assert [s.steps_to_recover for s in runs["pex"]] == [10_000, 15_000, 10_000, 15_000, 20_000]
    assert [s.steps_to_recover for s in runs["direct"]] == [40_000, 10_000, 15_000, 30_000, 0]


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{page}: {target}"
