"""README and docs as tests read them: their code blocks, and the command lines in them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
# Entries of the changelog keep the names of their time.
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Tutorials that tests/docs/test_tutorials.py follows, command by command.
FOLLOWED = [
    ROOT / "docs" / "tutorials" / f"{name}.md"
    for name in (
        "first-search",
        "rag",
        "container",
        "ten-million-rows",
        "raspberry-pi",
        "quantize",
        "from-sentence-transformers",
    )
]
# Their blocks with a title need frameworks, and run in tests/integrations.
INTEGRATION_PAGES = [ROOT / "docs" / "guides" / f"{name}.md" for name in ("frameworks", "vector-stores", "topics")]
# Blocks that run elsewhere: these need torch, and that one PostgreSQL.
TORCH_BLOCKS = ("MTEB",)
CLUSTER_BLOCKS = ("pgvector",)

# The line that quantizes the real model: a fixture runs it, once for all who use the bundle.
INT8_EXPORT = "embedrt export ./my-model -o fast/ --dtype float32,int8"


def text(page: Path) -> str:
    """A page's text."""
    return page.read_text(encoding="utf-8")


def blocks(language: str, page: Path) -> list[str]:
    """Code blocks of a language, without those that have a title."""
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


def titled_blocks(language: str, page: Path) -> dict[str, str]:
    """Code blocks that have a title, by title."""
    found = re.findall(rf'^```{language} title="(.*?)"\n(.*?)^```', text(page), re.MULTILINE | re.DOTALL)
    return dict(found)


def shell_lines(page: Path) -> list[str]:
    """Lines of the page's shell blocks."""
    return [line for block in blocks("sh", page) for line in block.splitlines()]


def command_lines(page: Path) -> list[str]:
    """Every `embedrt ...` in the page: in shell blocks, container files and prose."""
    page_text = text(page)
    inline = re.findall(r"`(embedrt [a-z][^`]*)`", page_text)
    container = re.findall(r"^RUN (embedrt .*)$", page_text, re.MULTILINE)
    return [line for line in shell_lines(page) if line.startswith("embedrt ")] + inline + container


def options(line: str) -> tuple[str, set[str]]:
    """The command of a line, and the options that it uses."""
    words = shlex.split(line.partition(" < ")[0])[1:]
    return words[0], {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
