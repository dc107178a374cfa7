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
REPLAYS = ("uniform", "symmetric", "balanced", "online_offline", "decaying", "best", "sequences")
FIELD = re.compile(r"^    (\w+): (.+?) = (.+?)(?:  # (.+))?$")


def page(folder: str, name: str) -> str:
    """One page as Markdown."""
    module = importlib.import_module(f"segue.{folder}.{name}")
    title, _, rest = (module.__doc__ or "").partition("\n")
    name_of, _, source_of = re.sub(r"\.( +(?=[A-Z])|$)", "\n", title, count=1).partition("\n")
    lines = [f"## {name_of}", "", f"`segue/{folder}/{name}.py`. {source_of}".strip(), ""]
    if rest.strip():
        lines += ["```text", rest.strip("\n"), "```", ""]
    table = ["| field | default | meaning |", "| --- | --- | --- |"]
    source = re.split(r"\((?:Learner|Wrapper|Replay)\):", inspect.getsource(module))[-1]
    source = source.partition("    def ")[0].partition("@property")[0]
    for line in source.splitlines():
        if (match := FIELD.match(line)) and "ClassVar" not in line:
            field, _, default, meaning = match.groups()
            table.append(f"| `{field}` | `{default}` | {meaning or ''} |")
    return "\n".join(lines + table if len(table) > 2 else lines[:-1])


def render() -> str:
    """The whole of docs/methods.md."""
    recipes = "\n".join(f"| `{n}` | {(f.__doc__ or '').strip()} |" for n, f in RECIPES.items())
    head = "# Methods\n\nMade by `python tools/methods.py` from the pages.\n\n| recipe | what it is |\n| --- | --- |\n"
    pages = [page("learners", name) for name in PAGES] + [page("replays", name) for name in REPLAYS]
    return head + recipes + "\n\n" + "\n\n".join(pages) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "methods.md").write_text(render())
