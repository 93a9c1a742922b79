"""Pages of the site that are generated from the code, so that they cannot fall behind it."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the tests read the generated pages without MkDocs
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
# Files of the repository that are pages of the site, and where a link to them leads.
_ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}

DOWNLOADS = {"browser-search.html": "examples/browser/index.html"}
"""Files of the repository that pages offer for download, by the path on the site."""


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for path, content in generated().items():
        files.append(File.generated(config, path, content=content))
    for path, original in DOWNLOADS.items():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / original)))
    return files


def generated() -> dict[str, str]:
    """Contents of the generated pages, by path."""
    root_pages = {page: site_links((ROOT / name).read_text(encoding="utf-8")) for name, page in _ROOT_PAGES.items()}
    return root_pages | {
        "examples.md": examples(),
        "how-it-works/rooms.md": rooms(),
        "reference/api.md": api(),
        "reference/cli.md": command_line(),
        "reference/errors.md": errors(),
        "reference/http.md": http_routes(),
        "reference/server-settings.md": server_settings(),
    }


def site_links(page: str) -> str:
    """A page of the repository with links that work on the site."""
    page = page.replace("](docs/", "](")
    page = re.sub(r"\]\(examples/(\w+)\.py\)", r"](examples.md#\1)", page)
    for name, target in _ROOT_PAGES.items():
        page = page.replace(f"]({name})", f"]({target})")
    return page


def examples() -> str:
    """The programs in `examples/`, with their code."""
    lines = ["# Examples", "", "Small complete programs. Each one runs in the tests.", ""]
    for path in sorted((ROOT / "examples").glob("*.py")):
        code = path.read_text(encoding="utf-8")
        lines += [f"## {path.stem}", "", _summary(path), "", "```python", code.rstrip(), "```", ""]
    return "\n".join(lines)


def rooms() -> str:
    """Each room with its purpose and files."""
    lines = [
        "# Map of the code",
        "",
        "Each folder is a room with one purpose, which its `__init__.py` states. This page is generated from them.",
        "",
    ]
    for title, package in (("Runtime", "embedrt"), ("Export", "export/embedrt_export")):
        lines += [f"## {title}: `{package}/`", "", "| room | purpose | files |", "|---|---|---|"]
        for folder, purpose, names in package_rooms(ROOT / package):
            lines.append(f"| `{folder}` | {purpose} | {', '.join(f'`{name}`' for name in names) or '-'} |")
        lines.append("")
    return "\n".join(lines)


def package_rooms(package: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Every folder of a package: its path, its purpose and its files."""
    for init in sorted(package.rglob("__init__.py")):
        folder = init.parent
        names = sorted(path.name for path in folder.glob("*.py") if path != init)
        yield f"{folder.relative_to(package.parent)}/", _summary(init), names


def api() -> str:
    """Everything that `embedrt` exports: classes, then functions."""
    names = ast.literal_eval(
        next(
            node.value
            for node in ast.parse((ROOT / "embedrt" / "__init__.py").read_text(encoding="utf-8")).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        )
    )
    names = [name for name in names if not name.endswith(("Error", "Warning", "__"))]
    classes = sorted((name for name in names if name[0].isupper()), key=lambda name: (name != "Embedder", name))
    functions = [name for name in names if not name[0].isupper()]
    lines = ["# Python API", "", "Errors have [a page of their own](errors.md).", "", "## Classes", ""]
    lines += [f"::: embedrt.{name}\n" for name in classes]
    rooms = {path.parent.name for path in (ROOT / "embedrt").glob("*/__init__.py")}
    # griffe_doors.py adds the underscore to a function that shares its name with a room.
    lines += ["## Functions", "", *(f"::: embedrt.{name}{'_' * (name in rooms)}\n" for name in functions)]
    return "\n".join(lines)


def command_line() -> str:
    """The help of every command."""
    lines = ["# Command line", "", "```text", command_help().rstrip(), "```", ""]
    for name in commands():
        lines += [f"## embedrt {name}", "", "```text", command_help(name).rstrip(), "```", ""]
    return "\n".join(lines)


def commands() -> list[str]:
    """Names of the commands, as the help lists them."""
    return re.findall(r"^ {2,4}([a-z]+)(?: {2,}\S|$)", command_help(), re.MULTILINE)


@cache
def command_help(*command: str) -> str:
    """The output of `embedrt COMMAND --help`."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    arguments = [sys.executable, "-m", "embedrt", *command, "--help"]
    return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def server_settings() -> str:
    """Every setting of `embedrt serve`, with its flags, variables and key."""
    from embedrt.server.options import GROUPS

    lines = [
        "# Server settings",
        "",
        "`embedrt serve` takes a setting from a flag, else from an environment variable, else from the file that",
        "`--config` or the variable `EMBEDRT_SERVE_CONFIG` names. `embedrt serve --check` prints what was settled as",
        "such a file. Every flag has a variable of its own: `EMBEDRT_SERVE_PORT` for `--port`. Those of",
        "text-embeddings-inference and of platforms, below, are read after it. `HOSTNAME` counts only if it is an",
        "address, as containers set it to their name.",
        "",
        "The file is TOML. Unknown keys are errors, and relative paths start at its folder:",
        "",
        "```toml",
        _SERVER_FILE,
        "```",
        "",
        "MODEL on the command line may be the name of one in the file: `embedrt serve bge --config serve.toml` serves",
        "that one alone. Flags and variables of models apply to every model.",
    ]
    for title, group in GROUPS.items():
        lines += ["", f"## {title}", "", "| flag | variable | key | default | meaning |", "|---|---|---|---|---|"]
        for option in group:
            cells = (
                ", ".join(f"`{flag}`" for flag in option.flags) or "-",
                ", ".join(f"`{name}`" for name in option.also) or "-",
                f"`{_TABLES[option.scope]}{option.field}`" if option.in_file else "-",
                option.default_value,
                option.help,
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


_TABLES = {"server": "", "limits": "limits.", "model": "models."}
_SERVER_FILE = """\
host = "0.0.0.0"
key_file = "keys.txt"

[limits]
request_texts = 4096

[[models]]
name = "bge"
source = "bundles/bge-small"
aliases = ["text-embedding-3-small"]
dtype = "int8"
prompts = { query = "query: " }

[[models]]
name = "reranker"
source = "bundles/reranker"
auto_truncate = false"""


def http_routes() -> str:
    """Every route of the server with the fields of its requests, from the OpenAPI document."""
    from embedrt.server.openapi import openapi
    from embedrt.server.routes import routes

    table = routes()
    described = openapi(table)
    lines = [
        "# HTTP routes",
        "",
        "[Serving](../guides/serving.md) has the clients. Unknown fields are ignored. `/openapi.json` of a running",
        "server describes the replies too, and `/metrics`, unless metrics are off or have a port of their own.",
    ]
    for dialect in dict.fromkeys(endpoint.dialect.name for endpoint in table):
        lines += ["", f"## {_APIS[dialect]}", "", "| route | purpose | key |", "|---|---|---|"]
        own = [endpoint for endpoint in table if endpoint.dialect.name == dialect]
        for endpoint in own:
            paths = ", ".join(f"`{path.replace(':path}', '}')}`" for path in (endpoint.path, *endpoint.also))
            key = "-" if endpoint.public else "if set"
            lines.append(f"| {endpoint.method} {paths} | {endpoint.summary} | {key} |")
        first = {one.body: one for one in reversed(own)}  # routes with the same body are described once
        for endpoint in reversed(first.values()):
            lines += _request_fields(endpoint.method, endpoint.path.replace(":path}", "}"), described)
    return "\n".join([*lines, ""])


_APIS = {
    "openai": "OpenAI",
    "rerank": "Reranking, by the APIs of Cohere, Jina, vLLM, TEI and Weaviate",
    "cohere": "Cohere",
    "vllm": "vLLM",
    "ollama": "Ollama",
    "tei": "TEI",
    "weaviate": "Weaviate",
    "embedrt": "embedrt",
}


def _request_fields(method: str, path: str, described: dict[str, Any]) -> list[str]:
    """A table with the fields of a request."""
    operation = described["paths"][path][method.lower()]
    if "requestBody" not in operation:
        return []
    schemas = described["components"]["schemas"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    lines = []
    for part in body.get("anyOf", [body]):
        schema = schemas[part["$ref"].rpartition("/")[2]]
        lines += ["", f"`{method} {path}`: {schema['description']}", "", "| field | type | meaning |", "|---|---|---|"]
        for name, one in schema["properties"].items():
            needed = ", required" if name in schema.get("required", ()) else ""
            lines.append(f"| `{name}` | {_type_of(one)}{needed} | {one.get('description', '')} |")
    return lines


def _type_of(schema: dict[str, Any]) -> str:
    """The type of a field in words."""
    if "$ref" in schema:
        return "object"
    if "anyOf" in schema:
        kinds = dict.fromkeys(_type_of(one) for one in schema["anyOf"] if one != {"type": "null"})
        return " or ".join(kinds)
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{value}`" for value in values if value is not None)
    name = str(schema.get("type", "anything"))
    if name == "array" and schema.get("items"):
        items = _type_of(schema["items"])
        return f"list of ({items})" if " or " in items else f"list of {items}"
    return {"integer": "int", "boolean": "bool", "array": "list"}.get(name, name)


def errors() -> str:
    """The tree of errors, each below the one that it is a kind of."""
    tree = ast.parse((ROOT / "embedrt" / "errors.py").read_text(encoding="utf-8"))
    found = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    bases = {name: [ast.unparse(base) for base in node.bases] for name, node in found.items()}
    lines = [
        "# Errors",
        "",
        "Wrong arguments raise the built-in `ValueError` and `TypeError`. Everything else is an `EmbedrtError`:",
        "`except embedrt.EmbedrtError` catches it. Each message has what was expected, what was found and the remedy.",
        "",
        "| error | kind of | raised when |",
        "|---|---|---|",
    ]
    for name, node in found.items():
        described = " ".join((ast.get_docstring(node) or "").split())
        lines.append(f"| `{name}` | {', '.join(f'`{base}`' for base in bases[name])} | {described} |")
    return "\n".join([*lines, ""])


def _summary(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
