"""`segue data`: list, make, info, check, import, export; files, readings and filters of a run."""

from __future__ import annotations

import json
import re
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_bad_input import command, refused  # noqa: F401  (a fixture)
from test_disk import goes_on_file
from test_lint import clean

import segue.api
import segue.cli
from segue import data_cli, tasks
from segue.errors import ConfigError
from segue.files import cache_root
from segue.runs import run as runs
from segue.tasks.dataset import D4RL
from segue.tasks.made import LICENCE, QUIET, cached


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGUE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def said(monkeypatch, capsys):
    """A function: the exit code and the lines that `segue data ARGS` prints."""

    def run(*args):
        code = command(monkeypatch, "data", *args)
        return code, capsys.readouterr().out

    return run


def field(out, key):
    """The value of a line of `segue data info`."""
    return next(line for line in out.splitlines() if line.startswith(f"{key} ")).removeprefix(key).strip()


def logs(path="logs.csv", scale=1.0):
    """A table of the rows of `test_lint.clean`, columns out of order, the actions times `scale`."""
    data = clean()
    columns = {f"sensor_{i}": data["obs"][:, i] for i in (2, 0, 1)}
    columns |= {f"u_{i}": scale * data["action"][:, i] for i in range(2)}
    columns |= {"r": data["reward"], "end": data["terminal"].astype(int)}
    columns["run"] = np.cumsum(np.roll(data["terminal"] | data["timeout"], 1)) - 1
    lines = [
        ",".join(columns),
        *(",".join(map(repr, row)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)),
    ]
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")


READ = ["--columns", "obs=sensor_*", "action=u_*", "reward=r", "terminal=end", "--episode", "run"]


def test_list_names_the_cache_with_sizes(said, tmp_path):
    code, out = said("list")
    assert code == 0
    assert "nothing is in the cache yet" in out
    assert out.index("point-wall ") < out.index("tasks without") < out.index("hopper ")
    path = tmp_path / "cache" / "datasets" / "segue" / "some-v0.npz"
    tasks.write_npz(tasks.get("point-wall").dataset, path)
    path.with_suffix(".json").write_text(json.dumps({"rows": 5571}))
    (path.parent / "other-v0.npz").write_bytes(b"x" * 2_500_000)
    _, out = said("list")
    assert re.search(r"segue/other-v0 +no manifest +2.5 MB", out)
    assert re.search(rf"segue/some-v0 +5,571 rows +{path.stat().st_size / 1000:.3g} kB", out)


def test_info_tells_the_manifest_and_draws_bars(said):
    code, out = said("info", "point-wall")
    assert code == 0
    assert (field(out, "rows"), field(out, "episodes"), field(out, "terminals")) == ("5,571", "100", "100")
    assert field(out, "score").startswith("100.0 (success rate")
    lengths = tasks.get("point-wall").dataset.lengths
    for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
        assert re.search(rf"^  {length}  [█#]+ {count}$", out, re.M)
    code, out = said("info", "point-wall", "--json")
    assert json.loads(out)["hash"] == tasks.get("point-wall").dataset.hash


def test_info_tells_the_levels_of_behaviours_and_json_their_curve(said):
    curve = [{"step": step, "greedy": 1.5} for step in range(100)]
    levels = {"medium": {"step": 30, "greedy": 1137.86}, "replay-0": {"step": 10, "greedy": 193.4}}
    data = tasks.get("point-wall").dataset
    record = {"learner": "SAC", "levels": levels, "curve": curve}
    tasks.write(replace(data, info={**data.info, "record": record}), "trained.npz")
    _, out = said("info", "trained.npz")
    assert "level         medium: step 30, greedy 1,138\nlevel         replay-0: step 10, greedy 193.4\n" in out
    assert max(map(len, out.splitlines())) < 120
    assert json.loads(said("info", "trained.npz", "--json")[1])["info"]["record"]["curve"] == curve


def test_bars_by_hand():
    assert list(data_cli.bars([3, 3], "length")) == ["\nlength of 2 episodes", "  all 3"]
    whole = list(data_cli.bars([1, 2, 2, 4], "length", "ascii"))
    assert whole == [
        "\nlength of 4 episodes",
        f"  1  {'#' * 20} 1",
        f"  2  {'#' * 40} 2",
        "  3",
        f"  4  {'#' * 20} 1",
    ]
    wide = list(data_cli.bars([1, 25], "length"))  # 25 values in ten bins of 3
    assert wide[1].split() == ["1", "to", "3", "█" * 40, "1"]
    assert wide[-1].split()[:3] == ["25", "to", "27"]
    real = list(data_cli.bars([0.5, 1.5, 1.5], "return"))
    assert real[1].split() == ["0.5", "to", "0.6", "█" * 20, "1"]
    assert real[10].split() == ["1.4", "to", "1.5", "█" * 40, "2"]
    assert len(real) == 11


def test_info_draws_a_picture(said, tmp_path):
    code, out = said("info", "point-wall", "--picture", "all.png")
    assert code == 0
    assert "drawn: all.png" in out
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def test_data_larger_than_the_memory_on_the_command_line(said, refused, tmp_path, monkeypatch):  # noqa: F811
    """Import in pieces for a task that leaves rows out, with filters, and the ways out that refusals name."""
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", "1GiB")  # `--memory-limit` sets it
    name = "antmaze-umaze-ogbench"
    goes_on_file(tmp_path / "am.hdf5", tasks.get(name), "both", False)
    whole = tasks.get(name, dataset="am.hdf5").dataset
    few = tasks.filtered(tasks.get(name, dataset="am.hdf5"), ["truncate=2"]).dataset
    small = ("--memory-limit", "100kB")
    task = ("--task", name, *small)
    assert "written: am.segue" in said("import", "am.hdf5", "--out", "am.segue", *task)[1]
    assert said("import", "am.hdf5", "--filter", "truncate=2", "--out", "few.segue", *task)[0] == 0
    assert said("import", "am.segue", "--filter", "truncate=2", "--out", "again.segue", *task)[0] == 0
    assert said("import", "am.hdf5", "--out", "plain.segue", *small)[0] == 0
    way_out = f"segue data import {tmp_path / 'plain.segue'} --task NAME --out NEW.segue"
    refused("data", "info", "plain.segue", *task, parts=["behind the goal wants its rows there", way_out])
    assert said("import", "plain.segue", "--out", "mended.segue", *task)[0] == 0
    assert said("export", "am.segue", "--filter", "truncate=2", "--out", "few.npz", *small)[0] == 0
    assert json.loads(said("info", "am.segue", "--json", *task)[1])["hash"] == whole.hash
    for path, data in {"am": whole, "mended": whole, "few": few, "again": few}.items():
        read = tasks.get(name, dataset=f"{path}.segue").dataset
        assert (read.hash, read.name) == (data.hash, data.name)
        assert path == "mended" or read.info == data.info  # mended: read as the file has it
    assert tasks.read("few.npz").hash == few.hash


def test_filters_on_the_command_line(said):
    _, out = said("info", "point-wall", "--filter", "truncate=20", "--filter", "near=0,0.5,0.1", "--json")
    told = json.loads(out)
    assert told["length"]["max"] < 20
    assert len(told["transforms"]) == 2
    kept = tasks.filtered(tasks.get("point-wall"), ["truncate=20", "near=0,0.5,0.1"]).dataset
    assert told["hash"] == kept.hash


def test_check_of_clean_data_finds_nothing(said):
    assert said("check", "point-wall") == (0, "point-wall: nothing found\nnext: segue data info point-wall\n")
    np.savez("clean.npz", **clean())
    code, out = said("check", "clean.npz")
    assert code == 0
    assert "clean.npz: nothing found" in out
    assert "next: segue data import clean.npz --out clean-segue.npz" in out


def test_check_tells_what_is_wrong_and_where(said):
    data = clean()
    data["action"][[3, 50], 1] = 1.5, -1.002
    data["timeout"][19] = False
    np.savez("bad.npz", **data)
    code, out = said("check", "bad.npz")
    assert code == 1
    assert "2 rows lie outside [-1, 1]" in out
    assert re.search(r"error +action +3, 50 ", out)
    assert re.search(r"warning +next_obs +19 ", out)
    assert "bad.npz: 1 error, 1 warning, 0 notes" in out
    assert said("check", "bad.npz", "--clip-actions")[0] == 0


def test_check_takes_bounds_and_limits_from_the_environment(said):
    n = 40
    obs = np.random.default_rng(0).normal(size=(n, 3))
    action = np.linspace(-2, 2, n)[:, None]
    np.savez("pendulum.npz", obs=obs, action=action, reward=obs[:, 0], next_obs=np.roll(obs, -1, 0))
    code, out = said("check", "pendulum.npz")
    assert code == 1
    assert "no column 'terminals' and 'timeouts'" in out
    code, out = said("check", "pendulum.npz", "--env", "Pendulum-v1")
    assert code == 0
    assert "nothing found" in out


def test_actions_of_a_robot_without_an_environment(said, refused, tmp_path, monkeypatch):  # noqa: F811
    data = clean()
    np.savez("robot.npz", **data | {"action": 5 * (data["action"] + [1, 0])})  # 0 to 10, and -5 to 5
    bounds = ["--action-low", "0", "-5", "--action-high", "10", "5"]
    code, out = said("check", "robot.npz")
    assert code == 1
    assert "give the bounds that they were recorded with: --action-low and --action-high, or --env" in out
    code, out = said("check", "robot.npz", *bounds, "--filter", "truncate=3")
    assert code == 0
    way_on = "segue data import robot.npz --action-low 0.0 -5.0 --action-high 10.0 5.0 --filter truncate=3 --out"
    assert f"next: {way_on} robot-segue.npz" in out.replace("\n", " ")
    refused("data", "check", "robot.npz", *bounds, "--env", "Pendulum-v1", parts=["[0, -5] to [10, 5]", "is -2 to 2"])
    refused("data", "check", "robot.npz", *bounds, "--task", "point-wall", parts=["is -1 to 1", "segue data import"])
    refused("data", "check", "robot.npz", "--action-low", "0", parts=["--action-low and --action-high", "give both"])
    assert said("check", "robot.npz", "--action-low", "0", "--action-high", "10")[0] == 1
    assert said("import", "robot.npz", *bounds, "--out", "mine.npz")[0] == 0
    np.testing.assert_allclose(tasks.read("mine.npz").action, data["action"], atol=1e-6)
    _, out = said("info", "mine.npz", *bounds)  # of our own file: nothing is rescaled again
    assert field(out, "transform 1") == "actions_mapped low [0, -5], high [10, 5]"
    assert "transform 2" not in out
    args = ["run", "bc", "--dataset", "robot.npz", *bounds, "--eval-episodes", "0", "--out", "run"]
    monkeypatch.setattr(segue.cli, "_execute", lambda _: 7)  # the run is made and not begun
    assert command(monkeypatch, *args) == 7
    config = runs.read_config(tmp_path / "run" / "seed-0")
    assert config["task"]["source"]["reading"] == {"action_low": [0, -5], "action_high": [10, 5]}
    assert runs.load_run(tmp_path / "run" / "seed-0")[3].dataset.hash == tasks.read("mine.npz").hash


def test_check_names_a_misspelt_column(said):
    data = clean()
    np.savez("odd.npz", observation=data.pop("obs"), **data)
    code, out = said("check", "odd.npz")
    assert code == 1
    assert "no column 'obs' (or 'observations'); did you mean 'observation'?" in out


def test_check_reports_what_only_the_reader_refuses(said):
    np.savez("shifted.npz", **clean())
    code, out = said("check", "shifted.npz", "--rewards", "observation")
    assert code == 1
    assert "refused" in out
    assert "row 16 is terminal" in out
    assert "--rewards transition" in out


def test_import_of_a_table_and_export_back(said, tmp_path):
    logs(scale=2.0)
    args = ["import", "logs.csv", "--out", "mine.npz", *READ]
    code, out = said(*args)
    assert code == 1  # the actions are not in [-1, 1]
    assert "nothing was written" in out
    assert not (tmp_path / "mine.npz").exists()
    code, out = said(*args, "--clip-actions")
    assert code == 0
    assert "written: mine.npz" in out
    assert "next: segue run METHOD TASK --dataset mine.npz" in out
    mine = tasks.read("mine.npz")
    wanted = clean()
    inside = ~wanted["timeout"]  # a row that was cut has no next observation in the table, and is dropped
    np.testing.assert_array_equal(mine.obs, wanted["obs"][inside])
    np.testing.assert_array_equal(mine.action, np.clip(2 * wanted["action"][inside], -1, 1))
    np.testing.assert_array_equal(mine.terminal, wanted["terminal"][inside])
    for name in ("back.hdf5", "back.csv"):
        assert said("export", "mine.npz", "--out", name)[0] == 0
        assert tasks.read(name).hash == mine.hash
    code, out = said("export", "mine.npz", "--out", "folder", "--format", "minari")
    assert code == 0
    assert "written: folder" in out
    assert tasks.read("folder").hash == mine.hash


def test_a_licence_named_at_import_stays_with_the_data(said, capsys, monkeypatch):
    data = clean()
    with h5py.File("logs.hdf5", "w") as file:
        for column, array in data.items():
            file[D4RL[column]] = array
    missing = "not recorded; --licence names it at import"
    assert field(said("info", "logs.hdf5")[1], "licence") == missing
    assert json.loads(said("info", "logs.hdf5", "--json")[1])["licence"] is None
    for args in (
        ["import", "logs.hdf5", "--out", "mine.npz", "--licence", "CC-BY-4.0"],
        ["import", "mine.npz", "--out", "mine.segue"],
        ["export", "mine.segue", "--out", "mine.csv"],
        ["export", "mine.csv", "--out", "back.hdf5", "--filter", "truncate=9"],
    ):
        assert said(*args)[0] == 0
        assert field(said("info", args[3])[1], "licence") == "CC-BY-4.0"
    assert tasks.read("mine.segue").hash == tasks.read("logs.hdf5").hash
    monkeypatch.setattr(tasks.formats, "fits", lambda _: False)  # so that it is brought over in pieces
    monkeypatch.setattr(tasks.formats.memory, "PIECES", 10**9)
    assert command(monkeypatch, "data", "import", "back.hdf5", "--out", "pieces.segue", "--licence", "MIT") == 0
    assert "note: the licence was 'CC-BY-4.0' and is now 'MIT'" in capsys.readouterr().err
    assert tasks.manifest(tasks.read("pieces.segue"))["licence"] == "MIT"


def test_sets_that_segue_makes_carry_its_licence(said):
    with (Path(segue.cli.__file__).parents[1] / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["license"] == LICENCE
    assert field(said("info", "point-wall")[1], "licence") == LICENCE

    def make(_):
        return replace(tasks.get("point-wall").dataset, info={})

    for licence in ("made", "from the cache"):
        assert cached("segue/x-v0", "x", {}, make, QUIET, ()).info["licence"] == LICENCE, licence
    bare = replace(make(None), name="segue/x-v0")
    tasks.write_npz(bare, cache_root() / "datasets" / "segue" / "x-v0.npz")  # as versions before this one did
    assert cached("segue/x-v0", "x", {}, make, QUIET, ()).info["licence"] == LICENCE


def test_nothing_is_overwritten_without_force(said, refused, tmp_path):  # noqa: F811
    (tmp_path / "there.npz").write_bytes(b"precious")
    np.savez("clean.npz", **clean())
    for args in (["import", "clean.npz"], ["export", "point-wall"]):
        refused("data", *args, "--out", "there.npz", parts=["there.npz: exists", "--force"])
        assert (tmp_path / "there.npz").read_bytes() == b"precious"
    for args in (["import", "clean.npz"], ["export", "point-wall"]):
        assert said(*args, "--out", "there.npz", "--force")[0] == 0
        tasks.read("there.npz")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["check"], ["segue data check takes a name or a file"]),
        (["make"], ["takes a name"]),
        (["make", "nowhere.npz"], ["named task", "segue data info nowhere.npz"]),
        (["info", "point-wal"], ["'point-wal' is neither a named task nor a file", "did you mean 'point-wall'"]),
        (["check", "nowhere.npz"], ["nowhere.npz: no such file"]),
        (["info", "point-wall", "--env", "Pendulum-v1"], ["--env goes with `segue data info FILE`"]),
        (["info", "point-wall", "--task", "point-wall"], ["--task goes with a file"]),
        (["info", "x.npz", "--task", "point-wall", "--env", "Pendulum-v1"], ["give one of them"]),
        (["info", "point-wall", "--clip-actions"], ["--clip-actions says how a file is read"]),
        (["check", "point-wall", "--relabel", "x"], ["--relabel says how a file is read"]),
        (["check", "logs.csv", "--columns", "sensor_*"], ["--columns takes OURS=THEIRS", "'sensor_*'"]),
        (["check", "logs.csv", "--columns", "ob=sensor_*"], ["unknown column 'ob'", "did you mean 'obs'"]),
        (["check", "logs.csv", "--columns", "obs=senzor_*"], ["no column fits 'senzor_*'", "sensor_"]),
        (["check", "logs.csv", "--kind", "tabel"], ["unknown kind of file 'tabel'", "did you mean 'table'"]),
        (["info", "point-wall", "--filter", "truncat=20"], ["unknown filter 'truncat=20'", "truncate"]),
        (["info", "point-wall", "--filter", "truncate=x"], ["'x' is no list of ints"]),
        (["import", "logs.csv"], ["takes --out FILE: segue data import logs.csv --out logs-new.npz"]),
        (["import", "point-wall", "--out", "a.npz"], ["named task: segue data make point-wall"]),
        (["import", "logs.csv", "--out", "a.npz", "--licence", " "], ["--licence is empty", "CC-BY-4.0"]),
        (["import", "logs.csv", "--out", "a.hdf5"], ["import writes .npz", "segue data export"]),
        (["export", "point-wall"], ["takes --out FILE"]),
        (["export", "point-wall", "--out", "a.xyz"], ["a.xyz", ".parquet"]),
    ],
    ids=lambda value: " ".join(value)[-60:],
)
def test_a_mistyped_command_says_what_was_meant(args, parts, refused, tmp_path):  # noqa: F811
    logs()
    before = sorted(tmp_path.iterdir())
    refused("data", *args, parts=parts)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("args", [["list", "--force"], ["make", "point-wall", "--env", "x"], ["check", "--force"], []])
def test_flags_that_a_command_has_not_are_refused(args, monkeypatch, capsys):
    assert command(monkeypatch, "data", *args) == 2
    assert "Traceback" not in "".join(capsys.readouterr())


def test_a_task_before_a_file_of_its_name(tmp_path):
    (tmp_path / "point-wall").mkdir()
    assert not data_cli.is_file("point-wall")
    assert data_cli.is_file("./point-wall")
    assert data_cli.is_file("minari:a/b-v0")
    assert data_cli.is_file("gone.npz")
    assert not data_cli.is_file("gone")


# ------------------------------------------------------------------------------------------- runs on files and filters


def test_a_named_task_with_a_file_and_a_filter_resumes_as_it_was(tmp_path, monkeypatch):
    logs(scale=1.0)
    table = tasks.Reading(columns={"obs": "sensor_0,sensor_1", "action": "u_*", "reward": "r"}, episode="run")
    task = tasks.filtered(tasks.get("point-wall", dataset="logs.csv", reading=table), ["truncate=10"])
    assert task.source == {
        "kind": "named",
        "name": "point-wall",
        "dataset": str(tmp_path / "logs.csv"),
        "reading": table.changes(),
        "filters": ["truncate=10"],
    }
    again = tasks.from_source(json.loads(json.dumps(task.source)))
    assert again.source == task.source
    assert again.dataset.hash == task.dataset.hash
    assert task.dataset.lengths.max() == 10
    args = ["run", "bc", "point-wall", "--dataset", "logs.csv", "--columns", "obs=sensor_0,sensor_1", "action=u_*"]
    args += ["reward=r", "--episode", "run", "--filter", "truncate=10", "--eval-episodes", "0", "--out", "run"]
    monkeypatch.setattr(segue.cli, "_execute", lambda _: 7)  # the run is made and not begun
    assert command(monkeypatch, *args) == 7
    config = runs.read_config(tmp_path / "run" / "seed-0")
    assert config["task"]["source"] == task.source
    assert config["dataset"]["hash"] == task.dataset.hash
    assert runs.load_run(tmp_path / "run" / "seed-0")[3].dataset.hash == task.dataset.hash


def test_the_same_from_python(monkeypatch):
    logs()
    table = tasks.Reading(columns={"obs": "sensor_0,sensor_1", "action": "u_*", "reward": "r"}, episode="run")
    given = {"task": "point-wall", "dataset": "logs.csv", "reading": table, "filters": ("truncate=10",)}
    asked = []

    def phases_of(method, task, *budgets):
        asked.append(task)
        raise KeyboardInterrupt  # before anything is compiled

    monkeypatch.setattr(segue.api, "phases_of", phases_of)
    with pytest.raises(KeyboardInterrupt):
        segue.train("bc", **given)
    assert asked[0].dataset.lengths.max() == 10
    assert asked[0].source["filters"] == ["truncate=10"]
    assert asked[0].source["reading"] == table.changes()


def test_filters_stand_in_their_canonical_form():
    task = tasks.filtered(tasks.get("point-wall"), ["near=0.0,.5,1e-1"])
    assert task.source["filters"] == ["near=0,0.5,0.1"]
    twice = tasks.filtered(task, ["truncate=9"])
    assert twice.source["filters"] == ["near=0,0.5,0.1", "truncate=9"]
    assert tasks.from_source(twice.source).dataset.hash == twice.dataset.hash


@pytest.mark.parametrize("filters", ["truncate=20", [20], [None], {"truncate": 20}])
def test_a_source_with_broken_filters(filters):
    with pytest.raises(ConfigError, match="not the source of a task"):
        tasks.from_source({"kind": "named", "name": "point-wall", "filters": filters})


def test_filters_and_readings_want_data():
    with pytest.raises(ConfigError, match="'hopper' has no dataset to filter; give a file with --dataset"):
        tasks.filtered(tasks.get("hopper"), ["truncate=20"])
    with pytest.raises(ConfigError, match="give it with `dataset`"):
        segue.train("bc", task="point-wall", reading=tasks.Reading(clip_actions=True))
    with pytest.raises(ConfigError, match="a Task has its data"):
        segue.train("bc", dataset="x.npz", task=tasks.get("point-wall"))


# ------------------------------------------------------------------------------------------------------------- waiting


def test_silence_is_not_longer_than_patience(monkeypatch, capsys):
    with data_cli.waiting("quick"):
        pass
    count = data_cli.counter("quick")
    count(1, 2)
    count(2, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(data_cli, "PATIENCE", 0.05)
    with data_cli.waiting("slow"):
        time.sleep(0.3)
    assert re.fullmatch(r"slow: 0 s\n", capsys.readouterr().err)
    count = data_cli.counter("slow")
    count(1, 4)
    time.sleep(0.1)
    count(2, 4)
    count(3, 4)
    count(4, 4)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["2/4", "4/4"]
