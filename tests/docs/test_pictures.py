"""SVG pictures of the docs: well-formed, described, legible on light and dark pages, and true to the code."""

import re
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.kit.pages import PAGES, ROOT, text

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = sorted((ROOT / "docs").rglob("*.svg"))
# The width of a character in pixels: more than the mean of words in the fonts of systems.
_CHARACTER = {"13": 6.8, "12": 6.3}
_CONTRAST = 4.5


@pytest.fixture(params=PICTURES, ids=lambda path: path.relative_to(ROOT).as_posix())
def picture(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def fills(style: str) -> dict[str, str]:
    """Colors by class; text has a class of its own."""
    return dict(re.findall(r"^(?:text)?\.(\w+) \{[^}]*fill: (#\w{6})", style, re.MULTILINE))


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_text_has_contrast_on_light_and_dark_pages(picture: Path) -> None:
    tree = ET.parse(picture)
    light, query, dark = (next(tree.iter(f"{SVG}style")).text or "").partition("@media (prefers-color-scheme: dark)")
    assert query
    words = {found.attrib["class"] for found in tree.iter(f"{SVG}text")}
    areas = {found.attrib["class"] for found in tree.iter(f"{SVG}rect")}
    behind = areas if "box" in areas else {"paper"}  # words stand in boxes, and beside bars
    for colors in (fills(light), fills(light) | fills(dark)):
        low = [(one, area) for one in words for area in behind if contrast(colors[one], colors[area]) < _CONTRAST]
        assert not low


def test_no_text_leaves_the_picture(picture: Path) -> None:
    tree = ET.parse(picture)
    root = tree.getroot()
    width = float(root.attrib["width"])
    assert root.attrib["viewBox"] == f"0 0 {root.attrib['width']} {root.attrib['height']}"
    character = _CHARACTER[root.attrib["font-size"]]
    for found in tree.iter(f"{SVG}text"):
        x, size = float(found.attrib["x"]), character * len(found.text or "")
        start = {"end": x - size, "middle": x - size / 2}.get(found.attrib.get("text-anchor", ""), x)
        assert start >= 0, found.text
        assert start + size <= width, found.text


def test_every_picture_is_described_and_shown(picture: Path) -> None:
    assert next(ET.parse(picture).iter(f"{SVG}title")).text
    shown = [
        alternative
        for page in PAGES
        for alternative, target in re.findall(r"!\[(.*?)\]\((.*?)\)", text(page))
        if (page.parent / target).resolve() == picture
    ]
    assert shown
    assert all(len(alternative) > 20 for alternative in shown)


def test_the_diagram_of_rooms_has_every_room() -> None:
    words = " ".join(found.text or "" for found in ET.parse(ROOT / "docs/how-it-works/rooms.svg").iter(f"{SVG}text"))
    contracts = tomllib.loads(text(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (runtime,) = [found for found in contracts if found["name"] == "The runtime's rooms import downwards"]
    (exporter,) = [found for found in contracts if found["name"] == "The exporter's rooms import downwards"]
    named = {name for layer in runtime["layers"] for name in re.findall(r"embedrt\.(\w+)", layer)}
    rooms = {name for name in named if (ROOT / "embedrt" / name / "__init__.py").is_file()}
    rooms |= {name for layer in exporter["layers"] for name in re.findall(r"\w+", layer)} - {"options"}
    assert not [room for room in sorted(rooms) if not re.search(rf"\b{room}\b", words)]
