"""Copies of the metrics: names, steps, a missing extra."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from segue.errors import ConfigError
from segue.runs.sinks import open_sinks, scalars

CONFIG = {"method": "m", "task": {"name": "t"}, "seed": 0, "digest": "d", "log": []}


def test_names_of_rows() -> None:
    evaluation = {"kind": "evaluation", "mode": "acting", "score": 1.0, "return": 2.0, "length": 3.0}
    assert dict(scalars({"kind": "train", "metrics": {"critic/td": 0.5}})) == {"critic/td": 0.5}
    assert dict(scalars(evaluation | {"extras": {"success": 0.4}})) == {
        "eval_acting/score": 1.0,
        "eval_acting/return": 2.0,
        "eval_acting/length": 3.0,
        "eval_acting/success": 0.4,
    }
    assert dict(scalars({"kind": "handover", "report": {}})) == {}


def test_tensorboard_writes_event_files(tmp_path: Path) -> None:
    (sink,) = open_sinks(tmp_path, CONFIG | {"log": ["tensorboard"]})
    sink.write({"critic/td": 0.5}, 7)
    sink.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"critic/td" in events.read_bytes()
    assert open_sinks(tmp_path, CONFIG) == []


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_extra_is_named(name: str, module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"pip install 'segue\[{name}\]'"):
        open_sinks(tmp_path, CONFIG | {"log": [name]})


def test_an_unknown_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no log is called 'tensorbord'; did you mean 'tensorboard'"):
        open_sinks(tmp_path, CONFIG | {"log": ["tensorbord"]})
