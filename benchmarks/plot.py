"""Draws speed against fidelity from what `benchmarks.compare --json` wrote.

    python -m benchmarks.plot result.json docs/speed.svg

A point an engine: texts a second on mixed texts, and how far the vectors are from those of sentence-transformers in
fp32. The ending of the file decides the format, .svg or .png.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.engines import Role, role

# Vectors whose mean cosine is within this of 1 are drawn as equal: it is about what float32 can tell apart.
_EQUAL = 1e-7
_NARROW = 1e-5  # nearer than this, there is no room for a name between a point and the equal ones
_MARKERS = {"fp32": "o", "bf16": "s", "int8": "^", "8 bit": "^", "static": "D"}
_COLOURS: dict[Role, str] = {"own": "#c2410c", "peer": "#475569", "reference": "#0f172a"}
_LABEL_POINTS = 10.5  # between the baselines of two labels


@dataclass(frozen=True)
class Point:
    """One engine in the plot.

    Attributes:
        name: The engine.
        precision: What it computes in.
        speeds: Texts a second, by round.
        distance: 1 - mean cosine, not below what is drawn as equal.
    """

    name: str
    precision: str
    speeds: tuple[float, ...]
    distance: float

    @property
    def speed(self) -> float:
        """The median."""
        return median(self.speeds)


def points(about: dict[str, Any], workload: str = "mixed") -> list[Point]:
    """The engines that were measured on a workload, fastest first."""
    found = []
    for name, engine in about["engines"].items():
        run = engine["runs"].get(workload)
        if run and run["texts_per_second"] and run["mean_cosine"] is not None:
            distance = max(_EQUAL, 1 - run["mean_cosine"])
            found.append(Point(name, engine["precision"], tuple(run["texts_per_second"]), distance))
    return sorted(found, key=lambda point: -point.speed)


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Moves positions apart until neighbours are at least `gap` from each other, as little as that needs.

    Positions that are too close form a group around their mean; groups that meet are joined.

    Args:
        positions: In falling order.
        gap: Smallest distance.

    Returns:
        New positions in the same order.
    """
    groups: list[list[float]] = []
    for position in positions:
        groups.append([position])
        while len(groups) > 1 and _bottom(groups[-2], gap) - _top(groups[-1], gap) < gap:
            last = groups.pop()
            groups[-1] += last
    return [_top(group, gap) - i * gap for group in groups for i in range(len(group))]


def _top(group: list[float], gap: float) -> float:
    return sum(group) / len(group) + gap * (len(group) - 1) / 2


def _bottom(group: list[float], gap: float) -> float:
    return _top(group, gap) - gap * (len(group) - 1)


def draw(about: dict[str, Any], path: Path) -> None:
    """Writes the plot."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "embedrt", "font.family": "DejaVu Sans"})
    from matplotlib import pyplot

    found = points(about)
    figure, axes = pyplot.subplots(figsize=(9.6, 7.4))
    figure.subplots_adjust(left=0.075, right=0.76, top=0.91, bottom=0.19)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(2, _EQUAL / 1.6)
    axes.set_ylim(min(point.speed for point in found) / 1.5, max(point.speed for point in found) * 1.6)
    for point in found:
        colour, own = _COLOURS[role(point.name)], role(point.name) == "own"
        axes.plot([point.distance] * 2, [min(point.speeds), max(point.speeds)], color=colour, linewidth=1, zorder=2)
        axes.plot(
            point.distance,
            point.speed,
            _MARKERS.get(point.precision, "o"),
            color=colour,
            markersize=9 if own else 7,
            markeredgecolor="white",
            zorder=4 if own else 3,
        )
    _label(figure, axes, found)
    axes.set_title("Texts a second, and how near the vectors are to sentence-transformers", loc="left", pad=22)
    axes.text(0, 1.02, "up is faster, right is nearer; bars: slowest and fastest round", transform=axes.transAxes)
    axes.set_ylabel("mixed texts a second")
    axes.set_xlabel("1 - mean cosine to sentence-transformers in fp32")
    ticks = [10.0**-exponent for exponent in range(8)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks[:-1]] + ["equal"])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(visible=True, color="#e2e8f0", linewidth=0.8)
    axes.grid(visible=True, which="minor", axis="y", color="#f1f5f9", linewidth=0.5)
    axes.minorticks_on()
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _legend(axes, mpl.lines.Line2D)
    figure.text(0.075, 0.02, _caption(about), color="#475569", fontsize=7.5, linespacing=1.5)
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=150, metadata=metadata)
    pyplot.close(figure)


def _label(figure: Any, axes: Any, found: list[Point]) -> None:
    """Names beside the points, moved apart where they would overlap.

    embedrt's are left of their points and the peers' right, as rivals are close to each other; what is equal has its
    names beyond the axes, and what is nearly so has them left.
    """
    figure.canvas.draw()
    to_pixels, to_data = axes.transData.transform, axes.transData.inverted().transform
    gap = _LABEL_POINTS * figure.dpi / 72
    groups: dict[tuple[bool, int], list[Point]] = {}
    for point in found:
        left = point.distance > _EQUAL and (role(point.name) == "own" or point.distance < _NARROW)
        groups.setdefault((left, round(to_pixels((point.distance, 1))[0] / (16 * gap))), []).append(point)
    for (left, _), members in groups.items():
        heights = spread([to_pixels((1, point.speed))[1] for point in members], gap)
        for point, height in zip(members, heights, strict=True):
            away = (3 if point.distance <= _EQUAL else 1.2) * gap * (-1 if left else 1)
            axes.annotate(
                f"{point.name}  {point.speed:.0f}",
                xy=(point.distance, point.speed),
                xytext=to_data((to_pixels((point.distance, 1))[0] + away, height)),
                color=_COLOURS[role(point.name)],
                fontsize=8.5,
                fontweight="bold" if role(point.name) == "own" else "normal",
                horizontalalignment="right" if left else "left",
                verticalalignment="center",
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": "#94a3b8",
                    "linewidth": 0.6,
                    "relpos": (float(left), 0.5),
                    "shrinkA": 0,
                    "shrinkB": 3,
                },
            )


def _legend(axes: Any, line: Any) -> None:
    handles = [
        line([], [], marker=marker, linestyle="", color="#64748b", markersize=7, label=label)
        for label, marker in (("fp32", "o"), ("bf16", "s"), ("8 bit", "^"), ("static table", "D"))
    ]
    axes.legend(handles=handles, loc="lower left", frameon=False, ncols=4, handletextpad=0.2, columnspacing=1.2)


def _caption(about: dict[str, Any]) -> str:
    machine, mixed = about["machine"], about["workloads"]["mixed"]
    versions = machine["versions"]
    named = ("onnxruntime", "torch", "sentence-transformers", "openvino", "fastembed", "llama-cpp-python")
    return "\n".join(
        [
            f"{about['model']}; {mixed['texts']} texts, mean {mixed['mean_tokens_256']} tokens: {about['corpus']}.",
            f"{machine['cpu']}, {machine['usable_processors']} processors, {machine['system']}.",
            ", ".join(f"{name} {versions[name]}" for name in named if name in versions)
            + f", Python {machine['python']}.",
            f"{about['date'][:10]}, commit {machine['commit']}.",
        ]
    )


def main() -> int:
    """Draws; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description="Draw what compare --json wrote.")
    parser.add_argument("result", type=Path, help="what compare wrote")
    parser.add_argument("plots", type=Path, nargs="+", help="files to write, .svg or .png")
    options = parser.parse_args()
    about = json.loads(options.result.read_text(encoding="utf-8"))
    for path in options.plots:
        draw(about, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
