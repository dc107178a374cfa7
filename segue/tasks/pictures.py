"""Pictures of a dataset: where its positions lie, and how its episodes' returns and lengths are spread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from segue.errors import DataError
from segue.tasks import antmaze, maze2d, mazes, pointmaze
from segue.tasks.dataset import Dataset
from segue.tasks.formats import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("png", "pdf", "svg")
DOTS = 144  # per inch
SQUARES = 120  # along the longer side of a coverage
BARS = 30  # at most, of a histogram
WALL, BAR, GOAL, DROPPED = "#c8c8c8", "#0072B2", "#D55E00", "#000000"  # Okabe and Ito's: told apart with any eyes
DENSITY = "viridis"  # lightness grows with the count
STYLE = {
    "font.size": 10,
    "text.parse_math": False,  # a name with dollar signs is a name
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Ground(NamedTuple):
    """What lies under the positions of a maze task."""

    layout: mazes.Layout
    frame: mazes.Frame  # of the walls
    goal: tuple[float, float]  # x, y; where goals are drawn, the least
    radius: float  # within which the goal counts as reached, units
    spread: float = 0.0  # goals lie up to this far above `goal` per axis, units


def ground(task: str) -> Ground | None:
    """The maze under the positions of a task by its name, ``maze2d-large-missing-data``, or None."""
    family, _, rest = task.partition("-")
    maze = rest.partition("-")[0]
    if maze not in mazes.MAPS:
        return None
    layout = mazes.layout(maze)
    if family == "maze2d":
        x, y = maze2d.MAZES[maze].goal
        return Ground(layout, maze2d.WALLS, (float(x), float(y)), maze2d.NEAR_GOAL)
    if family == "pointmaze":
        point = pointmaze.MAZES[maze]
        return Ground(layout, point.frame, point.frame.xy(point.goal), pointmaze.NEAR_GOAL)
    if family == "antmaze":
        place, spread = antmaze.FRAME.xy(mazes.GOALS[maze]), sum(antmaze.GOAL_NOISE)
        return Ground(layout, antmaze.FRAME, place, antmaze.RADIUS, spread)
    return None


def coverage(dataset: Dataset, maze: Ground | None = None, dims: tuple[int, int] = (0, 1)) -> Figure:
    """How many rows lie where: two entries of the observation, over the walls of a maze if there is one.

    Balls that a filter cleared (`segue.tasks.filters.Near` on these entries) are outlined, and so is the reach of the
    goal; where each episode draws its own, the square of all goals and their reach. The title counts rows that lie
    outside the maze. Raises ``DataError`` for observations without those entries.
    """
    return _figure(5.0, 4.2, lambda figure: _coverage(figure.subplots(), dataset, maze, dims))


def histograms(dataset: Dataset) -> Figure:
    """Histograms of the returns and of the lengths of the episodes, side by side."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        _histogram(left, dataset.returns, "return of an episode")
        _histogram(right, dataset.lengths, "length of an episode, steps")

    return _figure(7.0, 2.8, draw)


def overview(dataset: Dataset, maze: Ground | None = None) -> Figure:
    """`coverage` of the first two entries beside both histograms, or these alone where observations have one entry."""
    if dataset.obs_dim < 2:
        return histograms(dataset)

    def draw(figure: Figure) -> None:
        axes = figure.subplot_mosaic([["where", "return"], ["where", "length"]], width_ratios=[1.6, 1.0])
        _coverage(axes["where"], dataset, maze, (0, 1))
        _histogram(axes["return"], dataset.returns, "return of an episode")
        _histogram(axes["length"], dataset.lengths, "length of an episode, steps")

    return _figure(9.0, 4.4, draw)


def save(figure: Figure, path: Path) -> None:
    """Writes a picture whole or not at all, its kind by the suffix. Raises ``DataError``."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise DataError(f"{path}: a picture ends in .{', .'.join(KINDS)}; give one of these")
    with writing(path) as file:
        figure.savefig(file, format=kind, dpi=DOTS)


def _figure(width: float, height: float, draw: Callable[[Figure], object]) -> Figure:
    """Sizes in inches."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
    return figure


def _coverage(axes: Axes, dataset: Dataset, maze: Ground | None, dims: tuple[int, int]) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

    if max(dims) >= dataset.obs_dim:
        raise DataError(
            f"{dataset.name}: observations have {dataset.obs_dim} entries, and a picture of entries {dims} was asked "
            "for; name two that are there, from 0"
        )
    x, y = dataset.obs[:, dims[0]].astype(np.float64), dataset.obs[:, dims[1]].astype(np.float64)
    if maze is not None:
        half = maze.frame.scale / 2
        centres = np.array([maze.frame.xy((int(row), int(column))) for row, column in np.argwhere(maze.layout.walls)])
        low, high = centres.min(0) - half, centres.max(0) + half
        blocks = [Rectangle((cx - half, cy - half), 2 * half, 2 * half) for cx, cy in centres.tolist()]
        axes.add_collection(PatchCollection(blocks, facecolor=WALL, edgecolor=WALL))
        axes.set_aspect("equal")
    else:
        low, high = (np.array([f(x), f(y)]) for f in (np.min, np.max))
        margin = np.where(high > low, 0.02 * (high - low), 0.5)
        low, high = low - margin, high + margin
    side = (high - low).max() if maze is not None else high - low
    bins = np.maximum(1, np.rint(SQUARES * (high - low) / side)).astype(int)
    count, x_edges, y_edges = np.histogram2d(x, y, bins.tolist(), [[low[0], high[0]], [low[1], high[1]]])
    outside = dataset.size - int(count.sum())
    norm = LogNorm(1, max(2.0, float(count.max())))
    shown = np.ma.masked_equal(count.T, 0)
    mesh = axes.pcolormesh(x_edges, y_edges, shown, cmap=DENSITY, norm=norm, rasterized=True)
    for x0, y0, radius in _cleared(dataset, dims):
        axes.add_patch(Circle((x0, y0), radius, fill=False, edgecolor=DROPPED, linestyle="--", linewidth=1.2))
    if maze is not None:
        (x0, y0), outline = maze.goal, {"fill": False, "edgecolor": GOAL, "linewidth": 1.6}
        if maze.spread:
            reach = f"round,pad={maze.radius},rounding_size={maze.radius}"
            axes.add_patch(FancyBboxPatch(maze.goal, maze.spread, maze.spread, boxstyle=reach, **outline))
            axes.add_patch(Rectangle(maze.goal, maze.spread, maze.spread, **{**outline, "linewidth": 0.8}))
            place, side, label = (x0 + maze.spread / 2, y0 - 1.5 * maze.radius), "top", "goals"
        else:
            axes.add_patch(Circle(maze.goal, maze.radius, **outline))
            place, side, label = maze.goal, "center", "goal"
        axes.annotate(
            label, place, color=GOAL, ha="center", va=side, fontsize=8, fontweight="bold",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    names = ("x", "y") if maze is not None else tuple(f"entry {i} of the observation" for i in dims)
    title = f"{dataset.name}: {dataset.size:,} rows" + (f",\n{outside:,} of them outside the maze" if outside else "")
    axes.set(xlabel=names[0], ylabel=names[1], title=title)
    axes.title.set_fontsize(9)
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(mesh, ax=axes, label="rows in a square", shrink=0.8)


def _cleared(dataset: Dataset, dims: tuple[int, int]) -> list[list[float]]:
    """Balls (x, y, radius) that filters cleared of rows."""
    done = [one for one in dataset.info.get("transforms", []) if isinstance(one, dict) and one.get("kind") == "near"]
    return [ball for one in done if one.get("dims") == list(dims) for ball in one["balls"]]


def _histogram(axes: Axes, values: np.ndarray, label: str) -> None:
    low, high = float(values.min()), float(values.max())
    if high - low < BARS and (values == np.rint(values)).all():  # a bar for each number
        edges = np.arange(low, high + 2) - 0.5
    else:
        edges = np.linspace(low, high, BARS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    axes.hist(values, bins=edges.tolist(), color=BAR, edgecolor="white", linewidth=0.3)
    if high == low:
        axes.set_xticks([low], [f"{low:,.4g}"])
    mean = float(values.mean())
    axes.axvline(mean, color=DROPPED, linestyle="--", linewidth=1.2)
    axes.set(xlabel=label, ylabel="episodes", title=f"{len(values):,} episodes, mean {mean:,.4g}")
    axes.title.set_fontsize(9)
