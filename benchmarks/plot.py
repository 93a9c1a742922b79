"""Bar chart of throughput, as SVG that depends on nothing but the results."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from benchmarks.engines import role

_WIDTH, _LEFT, _RIGHT, _BAR, _HEAD = 860, 250, 270, 20, 46
_COLORS = {"own": "#c2410c", "peer": "#94a3b8", "reference": "#0f172a"}
# A static model is a different kind of thing: a hundred times as fast, with other vectors. The tables have it.
_ALIKE = 0.99


def draw(records: Sequence[Mapping[str, Any]]) -> str:
    """One panel a machine, one bar an engine: texts/s on mixed texts, with the ratio and the mean cosine beside it."""
    parts, top = [], 0
    for record in records:
        panel, height = _panel(record, top)
        parts += panel
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


def bars(record: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Engines of a record with vectors like the reference's, fastest first."""
    mixed = {name: engine["workloads"].get("mixed") for name, engine in record["engines"].items()}
    alike = [(name, run) for name, run in mixed.items() if run and (run["mean_cosine"] or 0) >= _ALIKE]
    return sorted(alike, key=lambda item: -item[1]["texts_per_s"]["median"])


def _panel(record: Mapping[str, Any], top: int) -> tuple[list[str], int]:
    shown = bars(record)
    machine = record["machine"]
    parts = [
        _text(10, top + 20, f"Mixed texts per second, {machine['title']}", "#0f172a", weight="bold", size=14),
        _text(10, top + 36, f"{record['model']}; {record['date'][:10]}", "#64748b"),
    ]
    labels = {**_COLORS, "peer": "#475569"}
    fastest = max((run["texts_per_s"]["median"] for _, run in shown), default=1.0)
    for row, (name, run) in enumerate(shown):
        speed = run["texts_per_s"]["median"]
        color = _COLORS[role(name)]
        y = top + _HEAD + row * _BAR
        width = max(1, round(speed / fastest * (_WIDTH - _LEFT - _RIGHT)))
        label = f"{name} ({record['engines'][name]['dtype']})"
        ratio = f"{run['ratio']['median']:.2f}x, " if run["ratio"] else ""
        parts += [
            _text(
                _LEFT - 8,
                y + 14,
                label,
                labels[role(name)],
                weight="bold" if role(name) == "own" else "normal",
                anchor="end",
            ),
            f'<rect x="{_LEFT}" y="{y + 3}" width="{width}" height="{_BAR - 6}" rx="2" fill="{color}"/>',
            _text(
                _LEFT + width + 6,
                y + 14,
                f"{speed:.0f} texts/s ({ratio}cosine {cosine(run['mean_cosine'])})",
                "#334155",
            ),
        ]
    return parts, _HEAD + len(shown) * _BAR + 14


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
