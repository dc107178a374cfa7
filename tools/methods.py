"""Write docs/methods.md from the pages themselves: docstrings, fields with their comments. A test holds it up to date.

python tools/methods.py
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

from segue.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("bc", "iql", "sac", "td3", "cql", "many", "o3f", "pex", "hold", "mopo", "dt", "odt", "standardise")
FIELD = re.compile(r"^    (\w+): (.+?) = (.+?)(?:  # (.+))?$")


def page(name: str) -> str:
    """One learner page as Markdown."""
    module = importlib.import_module(f"segue.learners.{name}")
    title, _, rest = (module.__doc__ or "").partition("\n")
    lines = [f"## {title.partition('.')[0]}", "", f"`segue/learners/{name}.py`. {title.partition('.')[2].strip()}", ""]
    lines += ["```text", rest.strip("\n"), "```", "", "| field | default | meaning |", "| --- | --- | --- |"]
    source = re.split(r"\((?:Learner|Wrapper)\):", inspect.getsource(module))[-1]
    source = source.partition("    def ")[0].partition("@property")[0]
    for line in source.splitlines():
        if (match := FIELD.match(line)) and "ClassVar" not in line:
            field, _, default, meaning = match.groups()
            lines.append(f"| `{field}` | `{default}` | {meaning or ''} |")
    return "\n".join(lines)


def render() -> str:
    """The whole of docs/methods.md."""
    recipes = "\n".join(f"| `{n}` | {(f.__doc__ or '').strip()} |" for n, f in RECIPES.items())
    head = "# Methods\n\nMade by `python tools/methods.py` from the pages.\n\n| recipe | what it is |\n| --- | --- |\n"
    return head + recipes + "\n\n" + "\n\n".join(page(name) for name in PAGES) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "methods.md").write_text(render())
