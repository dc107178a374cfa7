"""What the documents say is what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from segue.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]


def test_method_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("methods", ROOT / "tools" / "methods.py")
    assert spec is not None
    assert spec.loader is not None
    methods = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(methods)
    written = (ROOT / "docs" / "methods.md").read_text()
    assert written == methods.render(), "run: python tools/methods.py"


def test_readme_names_every_method() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in RECIPES)


@pytest.mark.parametrize("page", ["README.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{page}: {target}"
