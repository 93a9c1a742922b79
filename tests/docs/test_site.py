"""Pages of the site that are generated, and facts in the docs that must match the code."""

import ast
import re
from pathlib import Path

import embedrt
from docs.hooks import (
    api,
    command_line,
    commands,
    errors,
    generated,
    package_rooms,
    rooms,
    server_settings,
    site_links,
)
from embedrt.errors import EmbedrtError
from tests.kit.pages import ROOT, text

PACKAGES = (ROOT / "embedrt", ROOT / "export" / "embedrt_export")
# Of the operating system, Python or a library, for every program; not a setting of embedrt's.
NOT_SETTINGS = {"LOCALAPPDATA", "PROCESSOR_IDENTIFIER", "PYTHONPATH", "RAYON_NUM_THREADS"}
# Options of pip and docker, and the beginning of an option that is put together.
OPTIONS_OF_OTHERS = {"--cpus", "--gpus", "--no-", "--no-deps"}


def test_every_room_states_its_purpose() -> None:
    for package in PACKAGES:
        found = list(package_rooms(package))
        assert len(found) > 5
        for folder, purpose, _ in found:
            assert purpose, f"{folder}__init__.py has no docstring"
            assert f"| `{folder}` | {purpose} |" in rooms()


def test_the_command_reference_has_every_command_and_its_help() -> None:
    assert {"export", "encode", "info", "verify", "diff", "tune", "bench", "list", "remove", "doctor"} <= set(
        commands()
    )
    for name in commands():
        assert f"## embedrt {name}\n" in command_line()
    assert "--normalize" in command_line()


def test_every_option_that_the_code_names_exists() -> None:
    known = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", command_line() + server_settings())) | OPTIONS_OF_OTHERS
    for path in (path for package in PACKAGES for path in package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", node.value))
                assert named <= known, f"{path.name}: {named - known}"


def test_the_error_page_has_every_error() -> None:
    for name, value in vars(embedrt.errors).items():
        if isinstance(value, type) and issubclass(value, EmbedrtError):
            assert f"| `{name}` |" in errors()


def test_the_api_page_has_every_public_name() -> None:
    for name in embedrt.__all__:
        described = re.search(rf"^::: embedrt\.{name}_?$", api(), re.MULTILINE) is not None
        assert described != name.endswith(("Error", "Warning", "__")), name


def test_links_to_files_of_the_repository_become_links_to_pages() -> None:
    page = "[a](docs/guides/x.md#y) ![b](docs/speed.svg) [c](examples/rag.py) [d](CHANGELOG.md)"
    assert site_links(page) == "[a](guides/x.md#y) ![b](speed.svg) [c](examples.md#rag) [d](changelog.md)"


def test_every_page_is_in_the_navigation() -> None:
    navigation = text(ROOT / "mkdocs.yml").partition("\nnav:\n")[2]
    named = set(re.findall(r"[\w/-]+\.md", navigation))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert named == written | set(generated())


def test_every_environment_variable_is_documented() -> None:
    page = text(ROOT / "docs" / "reference" / "environment.md")
    read = set()
    for path in (path for package in PACKAGES for path in package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        read |= set(re.findall(r"environ(?:\.get\(|\[)[\"'](\w+)", path.read_text(encoding="utf-8")))
        read |= {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and re.fullmatch(r"EMBEDRT_[A-Z_]+", str(node.value))
        }
    assert {"EMBEDRT_HOME", "EMBEDRT_MODEL", "EMBEDRT_OPTIMUM_PYTHON"} <= read
    assert not [name for name in read - NOT_SETTINGS if f"`{name}" not in page]


def test_likely_changes_have_a_room_that_exists() -> None:
    table = text(ROOT / "CONTRIBUTING.md").partition("## Likely changes")[2].partition("\n## ")[0]
    named = re.findall(r"^\| .+? \| `(.+?)` \|", table, re.MULTILINE)
    assert len(named) == 20
    for room in named:
        assert (ROOT / room / "__init__.py").is_file(), room


def test_every_tier_of_tests_is_described() -> None:
    page = text(ROOT / "CONTRIBUTING.md")
    holders = {path.parent.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    assert holders == {Path(name).name for name in re.findall(r"^\| `(tests/\w+)`", page, re.MULTILINE)}
