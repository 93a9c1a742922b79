"""Charts of records as SVG that depends on nothing but the results, for light and for dark pages."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from embedrt.bench.engines import Role, role

_WIDTH, _LEFT, _RIGHT, _BAR, _HEAD = 860, 250, 270, 20, 46
# A static model is a different kind of thing: a hundred times as fast, with other vectors. The tables have it.
_ALIKE = 0.99
_CHART, _LABEL = 180, 14
_CHARACTER = 6.5  # pixels of a label, more than the mean in the fonts of systems
_STYLE = """\
<style>
.paper { fill: #ffffff }
.title { fill: #0f172a; font-weight: bold; font-size: 14px }
.note { fill: #64748b }
.text { fill: #334155 }
.own { fill: #c2410c; stroke: #c2410c }
.peer { fill: #94a3b8; stroke: #94a3b8 }
.reference { fill: #0f172a; stroke: #0f172a }
text.own, text.peer, text.reference { stroke: none }
text.own { font-weight: bold }
text.peer { fill: #475569 }
@media (prefers-color-scheme: dark) {
.paper { fill: #1b1f27 }
.title { fill: #f1f5f9 }
.note { fill: #94a3b8 }
.text { fill: #cbd5e1 }
.own { fill: #fb923c; stroke: #fb923c }
.peer { fill: #64748b; stroke: #64748b }
.reference { fill: #e2e8f0; stroke: #e2e8f0 }
text.peer { fill: #cbd5e1 }
}
.line { fill: none }
</style>"""

Panel = tuple[list[str], int]
"""The elements of a part of a chart, and its height."""
Draw = Callable[[Mapping[str, Any], int], Panel]
"""A function that draws a part of a chart for a record, below a height."""


@dataclass(frozen=True)
class Bar:
    """One bar of a panel.

    Attributes:
        label: The words before it.
        whose: The kind of engine.
        length: Its share of the width, 0 to 1.
        beside: The words after it.
        reach: The end of the line beyond it, as a share of the width; 0 for none.
    """

    label: str
    whose: Role
    length: float
    beside: str
    reach: float = 0.0


def draw(records: Sequence[Mapping[str, Any]], *, scaling: bool = False) -> str:
    """One panel a machine, one bar an engine: texts/s, with the ratio and the mean cosine beside it.

    Args:
        records: The records.
        scaling: Also draw throughput over the number of cores, where it was measured.
    """
    panels = (_speeds, _cores) if scaling else (_speeds,)
    return chart("Throughput on mixed texts", [(panel, record) for record in records for panel in panels])


def chart(title: str, panels: Iterable[tuple[Draw, Mapping[str, Any]]]) -> str:
    """Panels below each other, as one SVG.

    Args:
        title: What the chart shows, for those who do not see it.
        panels: Functions that draw a panel below a height, each with its record.
    """
    parts, top = [], 0
    for panel, record in panels:
        some, height = panel(record, top)
        parts += some
        top += height
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" role="img"',
            f'     width="{_WIDTH}" height="{top}" font-family="system-ui, sans-serif" font-size="12">',
            f"<title>{escape(title)}</title>",
            _STYLE,
            f'<rect class="paper" width="{_WIDTH}" height="{top}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def panel(title: str, note: str, bars: Sequence[Bar], top: int) -> Panel:
    """A panel of horizontal bars.

    Args:
        title: Its title.
        note: The line below the title.
        bars: The bars, from top to bottom.
        top: The height at which it begins.
    """
    parts = [_text(10, top + 20, title, "title"), _text(10, top + 36, note, "note")]
    left = max([_LEFT, *(round(_CHARACTER * len(bar.label)) + 18 for bar in bars)])
    for row, bar in enumerate(bars):
        y = top + _HEAD + row * _BAR
        width, reach = (max(1, round(share * (_WIDTH - left - _RIGHT))) for share in (bar.length, bar.reach))
        parts += [
            _text(left - 8, y + 14, bar.label, bar.whose, anchor="end"),
            f'<rect class="{bar.whose}" x="{left}" y="{y + 3}" width="{width}" height="{_BAR - 6}" rx="2"/>',
        ]
        if reach > width:
            parts.append(
                f'<polyline class="{bar.whose} line" points="{left + width},{y + 10} {left + reach},{y + 10}"/>'
            )
        parts.append(_text(left + max(width, reach) + 6, y + 14, bar.beside, "text"))
    return parts, _HEAD + len(bars) * _BAR + 14


def main_workload(record: Mapping[str, Any]) -> str:
    """The workload that stands for all: "mixed", or the first."""
    return "mixed" if "mixed" in record["workloads"] else next(iter(record["workloads"]))


def bars(record: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Engines of a record with vectors like the reference's, fastest first."""
    workload = main_workload(record)
    found = [(name, engine["workloads"].get(workload)) for name, engine in record["engines"].items()]
    alike = [(name, run) for name, run in found if run and (run["mean_cosine"] is None or run["mean_cosine"] >= _ALIKE)]
    return sorted(alike, key=lambda item: -item[1]["texts_per_s"]["median"])


def _speeds(record: Mapping[str, Any], top: int) -> Panel:
    shown = bars(record)
    what = "Mixed texts" if main_workload(record) == "mixed" else "Texts"
    fastest = max((run["texts_per_s"]["median"] for _, run in shown), default=1.0)
    rows = []
    for name, run in shown:
        speed = run["texts_per_s"]["median"]
        ratio = f"{run['ratio']['median']:.2f}x, " if run["ratio"] else ""
        beside = f"{speed:.0f} texts/s ({ratio}cosine {cosine(run['mean_cosine'])})"
        rows.append(Bar(f"{name} ({record['engines'][name]['dtype']})", role(name), speed / fastest, beside))
    note = f"{record['model']}; {record['date'][:10]}"
    return panel(f"{what} per second, {record['machine']['title']}", note, rows, top)


def _cores(record: Mapping[str, Any], top: int) -> Panel:
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
    note = "in brackets: throughput per core relative to one core; dashed: no loss per core"
    parts = [_text(10, top + 20, title, "title"), _text(10, top + 36, note, "note")]
    below = 0
    for name, steps in sorted(scaled.items(), key=lambda item: -item[1][-1]["texts_per_s"]["median"]):
        first, last = steps[0], steps[-1]
        ideal = first["texts_per_s"]["median"] * most / first["cores"]
        line = " ".join(point(step["cores"], step["texts_per_s"]["median"]) for step in steps)
        x, y = map(int, point(last["cores"], last["texts_per_s"]["median"]).split(","))
        below = max(below + _LABEL, y + 4)  # labels of lines that end close together do not overlap
        label = f"{name}: {last['texts_per_s']['median']:.0f} texts/s ({last['efficiency']:.2f})"
        parts += [
            f'<polyline class="{role(name)} line" points="{point(0, 0)} {point(most, ideal)}" stroke-dasharray="3 4"/>',
            f'<polyline class="{role(name)} line" points="{line}" stroke-width="2"/>',
            _text(x + 6, below, label, role(name)),
        ]
    for count in dict.fromkeys(step["cores"] for steps in scaled.values() for step in steps):
        x = int(point(count, 0).split(",")[0])
        parts.append(_text(x, floor + 16, str(count), "note", anchor="middle"))
    return parts, _HEAD + _CHART + 30


def cosine(value: float | None) -> str:
    """Cosine similarity to four digits, rounded down: 0.99996 is not 1."""
    return "-" if value is None else f"{int(value * 1e4 + 1e-9) / 1e4:.4f}"


def _text(x: int, y: int, text: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
