"""The report on synthetic runs: hand-computed numbers, files that do not fit, and a page that runs nothing."""

import dataclasses
import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from segue.errors import CheckpointError
from segue.runs.report import (
    Summary,
    arm_verdict,
    arms,
    estimate,
    find_runs,
    overall,
    read_run,
    report,
    summarise,
    table,
    to_json,
    tolerance,
    verdict,
    write_html,
)

OFFLINE = {"name": "offline", "steps": 1000, "online": False}
ONLINE = {"name": "online", "steps": 400, "online": True}
RETRAIN = {"name": "retrain", "steps": 500, "online": False}


def evaluation(phase: str, step: int, score: float | None, mode: str = "greedy") -> dict[str, Any]:
    row = {"kind": "evaluation", "phase": phase, "step": step, "mode": mode, "returns": [1.0], "return": 1.0}
    return row | {"score": score, "length": 10.0, "extras": {}}


def curve(*online: tuple[int, float | None], offline: float | None = 60.0) -> list[dict[str, Any]]:
    rows = [evaluation("offline", 500, 10.0), evaluation("offline", 1000, offline)]
    return rows + [evaluation("online", step, score) for step, score in online]


def write(path: Path, rows: list[Any], *, phases: Any = (OFFLINE, ONLINE), tail: str = "", **config: Any) -> Path:
    path.mkdir(parents=True)
    full = {
        "format": 1,
        "method": "pex",
        "task": {"name": "hopper-medium"},
        "seed": 0,
        "digest": "d1",
        "commit": "c0ffee",
        "versions": {"segue": "0.1"},
        "threads": 2,
        "machine": "box",
        "dataset": {"name": "hopper-medium", "hash": "h", "size": 1, "episodes": 1, "return_mean": 50.0},
        "reference": {"name": "r", "minimum": 0.0, "maximum": 200.0},
        "phases": list(phases),
        "settings": {"eval_every": 100, "eval_episodes": 10, "log_every": 10},
    }
    (path / "config.json").write_text(json.dumps(full | config))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def summary(path: Path, rows: list[Any], **config: Any) -> Summary:
    return summarise(read_run(write(path, rows, **config)))


# --------------------------------------------------------------------------------------------------- one run


def test_drop_recovery_and_regret_by_hand(tmp_path: Path) -> None:
    """Scores 50, 20, 70, 90 at 0, 100, 300, 400: regret areas 65 * 100, 55 * 200, 20 * 100, over 100 * 400."""
    rows = curve((0, 50.0), (100, 20.0), (300, 70.0), (400, 90.0))
    rows.insert(3, evaluation("online", 0, 33.0, "acting"))
    s = summary(tmp_path / "r", rows)
    assert (s.offline_score, s.handover_score, s.handover_acting_score) == (60.0, 50.0, 33.0)
    assert (s.deepest_drop, s.deepest_step, s.steps_to_recover, s.recovered) == (40.0, 100, 300, True)
    assert (s.final_score, s.best_score, s.online_steps) == (90.0, 90.0, 400)
    assert s.regret == pytest.approx((65 * 100 + 55 * 200 + 20 * 100) / (100 * 400))
    assert (s.status, s.finished) == ("finished", True)
    assert verdict(s) == "dropped 40.0 points, recovered after 300 steps"


def test_never_below_the_offline_score(tmp_path: Path) -> None:
    s = summary(tmp_path / "r", curve((0, 60.0), (400, 100.0)))
    assert (s.deepest_drop, s.steps_to_recover, s.recovered) == (0.0, 0, True)
    assert s.regret == pytest.approx(0.2)
    assert verdict(s) == "safe"


def test_a_recovery_before_the_deepest_point_does_not_count(tmp_path: Path) -> None:
    s = summary(tmp_path / "r", curve((0, 30.0), (100, 65.0), (200, 10.0), (400, 59.0)))
    assert (s.deepest_drop, s.deepest_step, s.steps_to_recover, s.recovered) == (50.0, 200, None, False)
    assert verdict(s) == "dropped 50.0 points, not recovered"


def test_of_equally_deep_points_the_last_counts(tmp_path: Path) -> None:
    s = summary(tmp_path / "r", curve((0, 0.0), (100, 60.0), (200, 0.0), (400, 70.0)))
    assert (s.deepest_step, s.steps_to_recover) == (200, 400)


@pytest.mark.parametrize(
    ("offline", "lowest", "words"), [(20.0, 15.0, "safe"), (20.0, 14.9, "drop"), (80.0, 72.0, "safe")]
)
def test_tolerance_is_five_points_or_a_tenth(tmp_path: Path, offline: float, lowest: float, words: str) -> None:
    s = summary(tmp_path / "r", curve((0, lowest), (400, 90.0), offline=offline))
    assert verdict(s).startswith(words)
    assert [tolerance(x) for x in (-30.0, 50.0, 80.0)] == [5.0, 5.0, 8.0]


def test_regret_is_not_clipped(tmp_path: Path) -> None:
    assert summary(tmp_path / "r", curve((0, 120.0), (400, 120.0))).regret == pytest.approx(-0.2)


def test_without_an_online_phase(tmp_path: Path) -> None:
    s = summary(tmp_path / "r", curve(), phases=[OFFLINE])
    assert (s.offline_score, s.final_score, s.status) == (60.0, 60.0, "finished")
    assert (s.handover_score, s.deepest_drop, s.steps_to_recover, s.regret, s.online_steps) == (None,) * 5
    assert verdict(s) == "not judged: no online evaluation"


def test_without_an_offline_phase(tmp_path: Path) -> None:
    s = summary(tmp_path / "r", curve((0, 0.0), (400, 50.0))[2:], phases=[ONLINE])
    assert (s.offline_score, s.handover_score, s.deepest_drop, s.recovered) == (None, 0.0, None, None)
    assert s.regret == pytest.approx(0.75)
    assert verdict(s) == "not judged: no offline score"


def test_online_phases_follow_one_another_and_retraining_takes_no_online_time(tmp_path: Path) -> None:
    phases = [OFFLINE, ONLINE, RETRAIN, ONLINE | {"name": "again"}]
    rows = [*curve((0, 50.0), (400, 50.0)), evaluation("retrain", 500, 99.0)]
    rows += [evaluation("again", 0, 70.0), evaluation("again", 400, 70.0)]
    s = summary(tmp_path / "r", rows, phases=phases)
    assert (s.offline_score, s.final_score, s.best_score, s.online_steps) == (60.0, 70.0, 99.0, 800)
    assert s.regret == pytest.approx(0.4)
    assert (s.deepest_step, s.steps_to_recover) == (400, 400)
    assert read_run(tmp_path / "r").starts() == [-1000, 0, 400, 900, 1300]


def test_a_run_that_stopped(tmp_path: Path) -> None:
    rows = [*curve((0, 58.0)), {"kind": "train", "phase": "online", "step": 50, "wall": 1.0, "metrics": {}}]
    s = summary(tmp_path / "online", rows)
    assert (s.status, s.finished, verdict(s), s.regret) == (
        "stopped at phase online step 50",
        False,
        "safe so far",
        None,
    )
    s = summary(tmp_path / "offline", rows[:1])
    assert (s.status, s.offline_score, s.final_score) == ("stopped at phase offline step 500", None, 10.0)
    s = summary(tmp_path / "empty", [])
    assert (s.status, s.final_score, s.best_score) == ("stopped at phase offline step 0", None, None)


@pytest.mark.parametrize("bad", [None, math.nan])
def test_a_score_that_is_not_a_number_is_not_hidden(tmp_path: Path, bad: float | None) -> None:
    s = summary(tmp_path / "r", curve((0, 50.0), (100, bad), (400, 70.0)))
    assert all(math.isnan(x) for x in (s.deepest_drop, s.best_score, s.regret))
    assert (s.steps_to_recover, s.recovered, s.final_score) == (None, None, 70.0)
    assert verdict(s) == "not judged: a score is not a number"
    s = summary(tmp_path / "offline", curve((0, 50.0), (400, 70.0), offline=bad))
    assert verdict(s) == "not judged: a score is not a number"
    assert s.regret == pytest.approx(0.4)


# --------------------------------------------------------------------------------------------------- reading


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    record = read_run(write(tmp_path / "r", curve(), tail='{"kind": "tra'))
    assert (len(record.rows), record.torn) == (2, True)
    record = read_run(write(tmp_path / "whole", curve(), tail=json.dumps(evaluation("online", 0, 1.0))))
    assert (len(record.rows), record.torn) == (3, False)


@pytest.mark.parametrize(
    ("rows", "tail", "message"),
    [
        ([], '{"kind": "tra\n{"kind": "note"}\n', "line 3: not JSON"),
        ([], "\n", "line 3: not JSON"),
        ([["kind"]], "", "line 3: not a row"),
        ([{"kind": "train", "phase": "offline", "step": 1}], "", "line 3: train row without 'metrics'"),
        ([evaluation("offline", 1100, "high")], "", "line 3: evaluation row with 'score' = 'high', not a number"),
        ([evaluation("onlin", 0, 1.0)], "", "line 3: phase 'onlin' is not in config.json"),
        ([evaluation("offline", 1000, 1.0)], "", "line 3: greedy evaluation at step 1000 after one at step 1000"),
        ([{"kind": "train", "phase": "offline", "step": 1, "metrics": {"a": "b"}}], "", "line 3: metric 'a'"),
        ([{"kind": "episode", "phase": "online", "step": True, "return": 1}], "", "'step' = True, not an integer"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path: Path, rows: list[Any], tail: str, message: str) -> None:
    path = write(tmp_path / "r", curve() + rows, tail=tail)
    with pytest.raises(CheckpointError) as caught:
        read_run(path)
    assert message in str(caught.value)
    assert "metrics.jsonl" in str(caught.value)


def test_rows_of_other_kinds_are_kept(tmp_path: Path) -> None:
    record = read_run(write(tmp_path / "r", [*curve(), {"kind": "note", "text": "hello"}]))
    assert record.rows[-1]["text"] == "hello"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"seed": "0"}, "field 'seed' is '0', not an integer"),
        ({"task": {}}, "field 'task.name' is missing"),
        ({"phases": []}, "field 'phases' is empty"),
        ({"settings": {}}, "field 'settings.eval_episodes' is missing"),
        ({"phases": [{"name": "offline", "steps": 1}]}, "field 'phases.0.online' is missing"),
        ({"phases": [OFFLINE, OFFLINE]}, "two phases are named 'offline'"),
        ({"reference": {"minimum": 0.0}}, "field 'reference.maximum' is missing"),
        ({"dataset": {"return_mean": "much"}}, "field 'dataset.return_mean'"),
    ],
)
def test_a_field_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "r", [], **({"phases": (OFFLINE, ONLINE)} | change))
    with pytest.raises(CheckpointError) as caught:
        read_run(path)
    assert message in str(caught.value)
    assert "config.json" in str(caught.value)


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        find_runs([tmp_path / "none"])
    with pytest.raises(CheckpointError, match=r"is this a run directory\? `segue run` writes them"):
        find_runs([tmp_path])
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match=r"config.json: not found; is .* a run directory\?"):
        read_run(find_runs([tmp_path])[0])
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not JSON"):
        read_run(tmp_path)


def test_runs_are_found_three_folders_deep_and_once(tmp_path: Path) -> None:
    for name in ("seed-0", "seed-10", "seed-9", "a/b/seed-0", "x/y/z/too-deep"):
        write(tmp_path / name, [])
    found = [str(path.relative_to(tmp_path)) for path in find_runs([tmp_path / "seed-9", tmp_path])]
    assert found == ["seed-9", "a/b/seed-0", "seed-0", "seed-10"]


# --------------------------------------------------------------------------------------------------- many runs


def three_seeds(root: Path, **config: Any) -> list[Path]:
    lows = (58.0, 40.0, 20.0)
    finals = (70.0, 80.0, 50.0)
    return [
        write(root / f"seed-{i}", curve((0, low), (400, final)), seed=i, **config)
        for i, (low, final) in enumerate(zip(lows, finals, strict=True))
    ]


def test_runs_that_differ_in_the_seed_alone_are_one_arm(tmp_path: Path) -> None:
    paths = three_seeds(tmp_path / "pex") + three_seeds(tmp_path / "other", digest="d2")
    paths += three_seeds(tmp_path / "walker", task={"name": "walker"}) + three_seeds(tmp_path / "cql", method="cql")
    found = arms(map(read_run, reversed(paths)))
    assert [(a.task, a.label, [s.seed for s in a.summaries]) for a in found] == [
        ("hopper-medium", "cql", [0, 1, 2]),
        ("hopper-medium", "pex (d1)", [0, 1, 2]),
        ("hopper-medium", "pex (d2)", [0, 1, 2]),
        ("walker", "pex", [0, 1, 2]),
    ]
    assert overall(found) == {}  # two configurations of pex on one task


def test_the_same_seed_twice_is_an_error(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a", []), write(tmp_path / "b", [])]
    with pytest.raises(CheckpointError, match="both seed 0"):
        arms(map(read_run, paths))


def test_means_count_a_run_that_did_not_recover(tmp_path: Path) -> None:
    (arm,) = arms(map(read_run, three_seeds(tmp_path)))
    strata = {arm.task: arm.summaries}
    final, recover = estimate(strata, "final_score"), estimate(strata, "steps_to_recover")
    assert final is not None
    assert recover is not None
    assert final.value == pytest.approx(200 / 3)
    assert 50.0 <= final.low < final.value < final.high <= 80.0
    assert (recover.value, recover.seeds, recover.of) == (math.inf, 3, 3)
    assert estimate(strata, "handover_acting_score") is None
    assert arm_verdict(arm) == (
        "dropped 40.0 points, not recovered (seed 2, the deepest of 2 of 3 seeds; 1 not recovered)"
    )


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    found = arms([read_run(write(tmp_path / "r", curve((0, 58.0), (400, 70.0))))])
    assert math.isnan(estimate({"t": found[0].summaries}, "final_score").low)  # type: ignore[union-attr]
    assert arm_verdict(found[0]) == "safe (1 seed)"
    assert "1 seed: no interval" in printed(found)


def test_means_over_tasks_are_stratified(tmp_path: Path) -> None:
    paths = three_seeds(tmp_path / "hopper") + three_seeds(tmp_path / "walker", task={"name": "walker"}, digest="d2")
    found = arms(map(read_run, paths))
    assert {method: list(strata) for method, strata in overall(found).items()} == {"pex": ["hopper-medium", "walker"]}
    assert "pex over 2 tasks" in printed(found)
    assert to_json(found)["overall"]["pex"]["iqm"]["final_score"]["of"] == 6


def printed(found: Any, width: int = 160) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(found, width))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_shows_every_number_whole(tmp_path: Path, width: int) -> None:
    text = printed(arms(map(read_run, three_seeds(tmp_path))), width)
    assert "…" not in text
    for number in ("60.0", "58.0", "2.0", "40.0", "never", "66.7", "0.360", "not safe", "[50.0,", "80.0]"):
        assert number in text


def test_json_is_strict_and_complete(tmp_path: Path) -> None:
    made = json.loads(json.dumps(to_json(arms(map(read_run, three_seeds(tmp_path)))), allow_nan=False))
    (arm,) = made["arms"]
    assert {field.name for field in dataclasses.fields(Summary)} < set(arm["seeds"][0])
    assert arm["iqm"]["steps_to_recover"] == {"value": None, "low": 400.0, "high": None, "seeds": 3, "of": 3}
    assert arm["seeds"][1]["verdict"] == "dropped 20.0 points, recovered after 400 steps"


# --------------------------------------------------------------------------------------------------- page

EVIL = "<script>alert(1)</script>\" onload='x' $x^{$ \x1b[31m _"


class Tags(HTMLParser):
    """Counts tags and collects what they refer to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def full_rows(key: str = "critic/td") -> list[dict[str, Any]]:
    rows = curve()
    for step in range(10, 110, 10):
        rows.append(
            {"kind": "train", "phase": "offline", "step": step, "wall": 1.0, "metrics": {key: 10.0 ** -(step / 20)}}
        )
    rows.append(evaluation("online", 0, 50.0))
    rows += [
        {"kind": "episode", "phase": "online", "step": s, "episode": i, "return": 3.0, "length": 5, "score": 1.5}
        for i, s in enumerate((30, 90, 200))
    ]
    rows.append({"kind": "train", "phase": "online", "step": 300, "wall": 2.0, "metrics": {key: None, "other": 1.0}})
    return [*rows, evaluation("online", 400, 80.0)]


def test_the_page_is_self_contained_and_escapes_everything(tmp_path: Path) -> None:
    paths = [
        write(
            tmp_path / str(seed),
            full_rows(EVIL),
            seed=seed,
            method=EVIL,
            task={"name": EVIL},
            digest=EVIL,
            commit=EVIL,
            versions={EVIL: EVIL},
            machine=EVIL,
            command=["segue", "run", EVIL],
            phases=[OFFLINE | {"learner": {EVIL: EVIL}}, ONLINE],
        )
        for seed in range(2)
    ]
    target = tmp_path / "out" / "page.html"
    write_html(arms(map(read_run, paths)), target)
    page = target.read_text()
    tags = Tags(page)
    assert "script" not in tags.tags
    assert "onload" not in tags.attributes
    assert "\x1b" not in page
    assert tags.tags.count("img") == 3
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    assert "http" not in page.replace("http-equiv", "")
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]


def test_the_page_says_what_was_run(tmp_path: Path) -> None:
    rows = full_rows()
    for row in rows:
        if row["kind"] == "train":
            row["metrics"] |= {f"part{i}/loss": 1.0 for i in range(14)}
    found = arms([read_run(write(tmp_path / "r", rows, command=["segue", "run", "pex", "a b"]))])
    write_html(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for words in (
        "segue run pex &#x27;a b&#x27;",
        "c0ffee",
        "segue 0.1",
        "eval_every 100",
        "1,000 updates",
        "400 environment steps",
    ):
        assert words in page
    assert "4 more in metrics.jsonl" in page  # critic/td, other and 14 parts, of which 12 are shown


@pytest.mark.parametrize(
    ("rows", "phases"),
    [
        ([], [OFFLINE, ONLINE]),
        (curve(), [OFFLINE]),
        (curve((0, 1.0), (400, 2.0))[2:], [ONLINE]),
        (curve((0, None), (400, None)), [OFFLINE, ONLINE, RETRAIN]),
        (curve((0, 1.0)), [OFFLINE, ONLINE | {"steps": 10_000_000}]),
        ([evaluation("offline", 0, 1.0)], [OFFLINE | {"steps": 0}]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_the_page_can_be_drawn_of_any_run(tmp_path: Path, rows: list[Any], phases: list[Any]) -> None:
    paths = [write(tmp_path / str(i), rows, phases=phases, seed=i, reference=None, dataset=None) for i in range(2)]
    write_html(arms(map(read_run, paths)), tmp_path / "page.html")
    assert "</html>" in (tmp_path / "page.html").read_text()


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    found = arms([read_run(write(tmp_path / "r", []))])
    (tmp_path / "taken").mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_html(found, tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r", "taken"]
    with pytest.raises(CheckpointError, match="no runs"):
        write_html([], tmp_path / "page.html")


def test_report_prints_and_writes(tmp_path: Path) -> None:
    three_seeds(tmp_path / "pex")
    console = Console(width=160, record=True, file=io.StringIO())
    report([tmp_path / "pex"], None, console)
    text = console.export_text()
    assert "pex on hopper-medium: dropped 40.0 points, not recovered" in text
    assert "report.html" in text
    assert (tmp_path / "pex" / "report.html").exists()
    with pytest.raises(CheckpointError, match="no directory"):
        report([], None, console)
