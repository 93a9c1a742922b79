"""Charts of records as SVG that depends on nothing but the results."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from embedrt.bench.engines import role

_WIDTH, _LEFT, _RIGHT, _BAR, _HEAD = 860, 250, 270, 20, 46
_COLORS = {"own": "#c2410c", "peer": "#94a3b8", "reference": "#0f172a"}
_LABELS = {**_COLORS, "peer": "#475569"}
_DARK, _GREY, _TEXT = "#0f172a", "#64748b", "#334155"
# A static model is a different kind of thing: a hundred times as fast, with other vectors. The tables have it.
_ALIKE = 0.99
_CHART, _LABEL = 180, 14


def draw(records: Sequence[Mapping[str, Any]], *, scaling: bool = False) -> str:
    """One panel a machine, one bar an engine: texts/s, with the ratio and the mean cosine beside it.

    Args:
        records: The records.
        scaling: Also draw throughput over the number of cores, where it was measured.
    """
    parts, top = [], 0
    for record in records:
        for panel in (_bars, _cores) if scaling else (_bars,):
            some, height = panel(record, top)
            parts += some
            top += height
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" role="img"',
            f'     width="{_WIDTH}" height="{top}" font-family="system-ui, sans-serif">',
            "<title>Throughput on mixed texts</title>",
            f'<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def main_workload(record: Mapping[str, Any]) -> str:
    """The workload that stands for all: "mixed", or the first."""
    return "mixed" if "mixed" in record["workloads"] else next(iter(record["workloads"]))


def bars(record: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Engines of a record with vectors like the reference's, fastest first."""
    workload = main_workload(record)
    found = [(name, engine["workloads"].get(workload)) for name, engine in record["engines"].items()]
    alike = [(name, run) for name, run in found if run and (run["mean_cosine"] is None or run["mean_cosine"] >= _ALIKE)]
    return sorted(alike, key=lambda item: -item[1]["texts_per_s"]["median"])


def _bars(record: Mapping[str, Any], top: int) -> tuple[list[str], int]:
    shown = bars(record)
    machine = record["machine"]
    workload = main_workload(record)
    what = "Mixed texts" if workload == "mixed" else "Texts"
    parts = [
        _text(10, top + 20, f"{what} per second, {machine['title']}", _DARK, weight="bold", size=14),
        _text(10, top + 36, f"{record['model']}; {record['date'][:10]}", _GREY),
    ]
    fastest = max((run["texts_per_s"]["median"] for _, run in shown), default=1.0)
    for row, (name, run) in enumerate(shown):
        speed = run["texts_per_s"]["median"]
        y = top + _HEAD + row * _BAR
        width = max(1, round(speed / fastest * (_WIDTH - _LEFT - _RIGHT)))
        label = f"{name} ({record['engines'][name]['dtype']})"
        ratio = f"{run['ratio']['median']:.2f}x, " if run["ratio"] else ""
        beside = f"{speed:.0f} texts/s ({ratio}cosine {cosine(run['mean_cosine'])})"
        parts += [
            _text(_LEFT - 8, y + 14, label, _LABELS[role(name)], weight=_weight(name), anchor="end"),
            f'<rect x="{_LEFT}" y="{y + 3}" width="{width}" height="{_BAR - 6}" rx="2" fill="{_COLORS[role(name)]}"/>',
            _text(_LEFT + width + 6, y + 14, beside, _TEXT),
        ]
    return parts, _HEAD + len(shown) * _BAR + 14


def _cores(record: Mapping[str, Any], top: int) -> tuple[list[str], int]:
    """Throughput over the number of cores: a line an engine, dashed where all cores would be worth as much as one."""
    scaled = {name: engine["scaling"] for name, engine in record["engines"].items() if engine["scaling"]}
    if not scaled:
        return [], 0
    most = max(step["cores"] for steps in scaled.values() for step in steps)
    fastest = max(step["texts_per_s"]["median"] / step["efficiency"] for steps in scaled.values() for step in steps)
    floor = top + _HEAD + _CHART

    def point(cores: float, speed: float) -> str:
        return f"{_LEFT + round((_WIDTH - _LEFT - _RIGHT) * cores / most)},{floor - round(_CHART * speed / fastest)}"

    title = f"Texts per second over cores, {record['machine']['title']}"
    parts = [
        _text(10, top + 20, title, _DARK, weight="bold", size=14),
        _text(10, top + 36, "in brackets: throughput per core relative to one core; dashed: no loss per core", _GREY),
    ]
    below = 0
    for name, steps in sorted(scaled.items(), key=lambda item: -item[1][-1]["texts_per_s"]["median"]):
        first, last, color = steps[0], steps[-1], _COLORS[role(name)]
        ideal = first["texts_per_s"]["median"] * most / first["cores"]
        line = " ".join(point(step["cores"], step["texts_per_s"]["median"]) for step in steps)
        x, y = map(int, point(last["cores"], last["texts_per_s"]["median"]).split(","))
        below = max(below + _LABEL, y + 4)  # labels of lines that end close together do not overlap
        label = f"{name}: {last['texts_per_s']['median']:.0f} texts/s ({last['efficiency']:.2f})"
        stroke = f'fill="none" stroke="{color}"'
        parts += [
            f'<polyline points="{point(0, 0)} {point(most, ideal)}" {stroke} stroke-dasharray="3 4"/>',
            f'<polyline points="{line}" {stroke} stroke-width="2"/>',
            _text(x + 6, below, label, _LABELS[role(name)], weight=_weight(name)),
        ]
    for count in dict.fromkeys(step["cores"] for steps in scaled.values() for step in steps):
        x = int(point(count, 0).split(",")[0])
        parts.append(_text(x, floor + 16, str(count), _GREY, anchor="middle"))
    return parts, _HEAD + _CHART + 30


def _weight(name: str) -> str:
    return "bold" if role(name) == "own" else "normal"


def cosine(value: float | None) -> str:
    """Cosine similarity to four digits, rounded down: 0.99996 is not 1."""
    return "-" if value is None else f"{int(value * 1e4 + 1e-9) / 1e4:.4f}"


def _text(
    x: int, y: int, text: str, color: str, *, weight: str = "normal", anchor: str = "start", size: int = 12
) -> str:
    return (
        f'<text x="{x}" y="{y}" fill="{color}" font-weight="{weight}" font-size="{size}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
