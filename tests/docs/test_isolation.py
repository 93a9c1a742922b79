"""Isolation of the runtime from other frameworks, the network and telemetry, each in a fresh process."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import embedrt
from embedrt.bundle.manifest import MANIFEST
from tests.kit.bundles import copy_bundle

RUNTIME = Path(embedrt.__file__).parent
FOREIGN = {
    "torch",
    "transformers",
    "sentence_transformers",
    "onnx",
    "optimum",
    "safetensors",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
}
ALLOWED = {"numpy", "tokenizers", "onnxruntime", "huggingface_hub", "tqdm", "click", "platformdirs", "embedrt"}
OPTIONAL = {
    "safetensors": "files",
    "pyarrow": "files",
    "scipy": "sparse",
    "onnxruntime_ep_openvino": "openvino",
}  # by the one module that imports it
# Files that `embedrt bench` loads in the process of each engine, never beside embedrt.
BENCH = {RUNTIME / "bench" / name for name in ("peers.py", "peer_files.py", "gguf_file.py")}
PEERS = {
    "sentence_transformers",
    "openvino",
    "fastembed",
    "light_embed",
    "candding",
    "llama_cpp",
    "model2vec",
    "gguf",
    "safetensors",
}
# The extra `serve`, for one room, which is imported by `embedrt serve` alone.
SERVER = RUNTIME / "server"
SERVING = {"starlette", "uvicorn", "httptools", "msgspec", "orjson", "prometheus_client"}
# The extra `bulk`, with engines, databases and file systems that users install, for one room.
BULK = RUNTIME / "bulk"
BULK_PACKAGES = {"pyarrow", "fsspec", "lance", "ray", "pyspark", "qdrant_client", "lancedb", "chromadb", "psycopg"}
# One file a framework, which imports it; nothing else imports these files.
INTEGRATIONS = RUNTIME / "integrations"


def python(code: str, *arguments: object, **environment: str) -> str:
    """Runs code in a fresh process and returns what it prints."""
    inherited = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**inherited, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ENCODE = """
import sys
import embedrt
embedder = embedrt.Embedder(sys.argv[1])
assert embedder.encode("one cat").shape == (32,)
assert embedder.encode(["one cat", "two dogs " * 30] * 40, normalize_embeddings=True).shape == (80, 32)
"""
LOADED = "\nprint(*sorted({name.partition('.')[0] for name in sys.modules}))"


@pytest.mark.subprocess
def test_encoding_loads_no_other_framework(tiny_bundle: Path) -> None:
    loaded = set(python(ENCODE + LOADED, tiny_bundle).split())
    assert {"embedrt", "onnxruntime", "tokenizers", "numpy"} <= loaded
    assert loaded & (FOREIGN | {"embedrt_export"}) == set()


@pytest.mark.subprocess
def test_classes_are_imported_on_first_use() -> None:
    classes = "CrossEncoder, HierarchicalTokenPooling, MultiVectorEncoder, SparseEncoder"
    rooms = "{'embedrt.cross_encoder', 'embedrt.multi_vector_encoder', 'embedrt.sparse_encoder'}"
    python(
        f"import sys, embedrt, embedrt.cli.encode\n"
        f"assert not {rooms} & set(sys.modules)\n"
        f"assert set({classes!r}.split(', ')) <= set(dir(embedrt))\n"
        f"from embedrt import {classes}\n"
        f"assert {rooms} <= set(sys.modules)\n"
        f"assert embedrt.CrossEncoder is CrossEncoder\n"
        f"assert not hasattr(embedrt, 'NoSuchClass')\n"
    )


@pytest.mark.subprocess
def test_a_folder_needs_no_hub_client(tiny_bundle: Path) -> None:
    """It is slow to import, and a server that starts from a folder has no use for it."""
    assert "huggingface_hub" not in python(ENCODE + LOADED, tiny_bundle).split()


@pytest.mark.subprocess
def test_importing_is_light() -> None:
    slow = FOREIGN | {"onnxruntime", "tokenizers", "huggingface_hub", "tqdm", "platformdirs", "embedrt_export"}
    loaded = set(python("import sys, embedrt" + LOADED).split())
    assert "numpy" in loaded
    assert loaded & (slow | {"click"}) == set()
    commands = "; from embedrt.cli.main import main; main(['--version']); main(['--help'])"
    loaded = set(python("import sys" + commands + LOADED).splitlines()[-1].split())
    assert "click" in loaded
    assert loaded & slow == set()


@pytest.mark.subprocess
@pytest.mark.parametrize("block", ["None", "absent"])
def test_without_an_engine_the_first_use_says_what_to_install(tiny_bundle: Path, block: str) -> None:
    code = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            raise ModuleNotFoundError(name)

if sys.argv[2] == "None":
    sys.modules["onnxruntime"] = None
else:
    sys.meta_path.insert(0, Absent())
import embedrt
for use in (lambda: embedrt.Embedder(sys.argv[1]), lambda: embedrt.encode("a")):
    try:
        use()
    except embedrt.MissingDependencyError as error:
        assert isinstance(error, ImportError) and isinstance(error, embedrt.EmbedrtError)
        print(error)
"""
    message = "ONNX Runtime is not installed; run `pip install 'embedrt[cpu]'` or `pip install 'embedrt[gpu]'`\n"
    assert python(code, tiny_bundle, block, EMBEDRT_MODEL=str(tiny_bundle)) == message * 2


GUARD = """
import socket, sys

def refuse(*arguments, **named):
    raise SystemExit(f"the network was touched: {arguments}")

class Refused(socket.socket):
    __init__ = refuse

socket.socket = Refused
for name in ("create_connection", "getaddrinfo", "gethostbyname", "create_server"):
    setattr(socket, name, refuse)

def audit(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":
        refuse(event, arguments)

sys.addaudithook(audit)
"""


@pytest.mark.subprocess
def test_no_network(tiny_bundle: Path) -> None:
    """The audit hook also sees extension modules that use Python's sockets."""
    assert python(GUARD + ENCODE + "print('done')", tiny_bundle) == "done\n"


@pytest.mark.subprocess
def test_no_network_for_a_name_in_the_store(tiny_bundle: Path, own_store: Path) -> None:
    copy_bundle(tiny_bundle, own_store / "bundles" / "org--tiny")
    assert python(GUARD + ENCODE + "print('done')", "org/tiny") == "done\n"


@pytest.mark.subprocess
def test_the_guard_guards() -> None:
    with pytest.raises(AssertionError, match="the network was touched"):
        python(GUARD + "socket.create_connection(('127.0.0.1', 9))")
    with pytest.raises(AssertionError, match="the network was touched"):
        python(GUARD + "import _socket; _socket.socket()")


@pytest.mark.subprocess
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_socket_at_all_is_open_after_encoding(tiny_bundle: Path) -> None:
    """Native code goes past Python's sockets, but not past the kernel's list of open files."""
    show = """
import os
for number in os.listdir("/proc/self/fd"):
    if os.path.lexists(f"/proc/self/fd/{number}"):
        print(os.readlink(f"/proc/self/fd/{number}"))
"""
    assert "socket:" in python("import socket; kept = socket.socket()" + show)
    assert "socket:" not in python(ENCODE + show, tiny_bundle)


@pytest.mark.subprocess
@pytest.mark.parametrize("before", ["", "0"])
def test_telemetry_is_off_before_the_engine_is_imported(tiny_bundle: Path, before: str) -> None:
    code = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print("ORT_DISABLE_TELEMETRY =", os.environ.get("ORT_DISABLE_TELEMETRY"))

sys.meta_path.insert(0, Watch())
"""
    printed = python(code + ENCODE, tiny_bundle, **({"ORT_DISABLE_TELEMETRY": before} if before else {}))
    assert printed == "ORT_DISABLE_TELEMETRY = 1\n"


@pytest.mark.subprocess
def test_telemetry_is_turned_off_even_if_the_engine_was_imported_before(tiny_bundle: Path) -> None:
    code = """
import onnxruntime
calls = []
onnxruntime.disable_telemetry_events = lambda: calls.append(1)
"""
    assert python(code + ENCODE + "print(len(calls) > 0)", tiny_bundle) == "True\n"


@pytest.mark.subprocess
def test_a_bundle_is_only_read(tiny_bundle: Path) -> None:
    """Nothing is written into it, and no file of it but the listed ones is opened."""
    code = """
import os, sys
opened = set()

def audit(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith(sys.argv[1] + os.sep):
            opened.add(path)
            assert not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT), path

sys.addaudithook(audit)
"""
    before = sorted((path, path.stat().st_mtime_ns) for path in tiny_bundle.rglob("*"))
    printed = python(code + ENCODE + "print(*sorted(opened), sep='\\n')", tiny_bundle)
    assert sorted((path, path.stat().st_mtime_ns) for path in tiny_bundle.rglob("*")) == before
    opened = {Path(line).relative_to(tiny_bundle).as_posix() for line in printed.splitlines()}
    listed = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}
    assert MANIFEST in opened
    assert opened <= listed


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a source file imports, and whether that is inside a function."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path.name} has a relative import"
                yield child.module or "", inside
            else:
                yield from walk(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), inside=False)


SOURCES = sorted(RUNTIME.rglob("*.py"))


def test_the_sources_are_found() -> None:
    assert {"__init__", "manifest", "main", "embedder", "session", "local", "resolve"} <= {
        path.stem for path in SOURCES
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(RUNTIME).as_posix())
def test_the_sources_import_what_the_package_depends_on_and_nothing_else(path: Path) -> None:
    for name, inside in imports(path):
        top = name.partition(".")[0]
        if top == "embedrt_export":
            assert inside, f"{path.name} imports the exporter when it is imported"
            assert path.stem == "resolve"
        elif top == "torch":  # on request, and for annotations
            assert (path.stem, inside) in {("torch_tensors", True), ("types", False)}
        else:
            is_peer = path in BENCH and inside and top in PEERS
            known = top in ALLOWED or top in sys.stdlib_module_names or OPTIONAL.get(top) == path.stem
            assert known or is_peer or of_room(path, top), f"{path.name} imports {name}"
        if top == "click":
            assert path.parent.name == "cli", f"{path.name} imports click"
        if top in {"onnxruntime", "tokenizers", "huggingface_hub", "tqdm", "platformdirs", *OPTIONAL}:
            assert inside or of_room(path, top), f"{path.name} imports {name} when it is imported"
        if top == "onnxruntime":
            assert path.stem == "session" or path in BENCH
        if top == "huggingface_hub":
            assert path.stem == "remote"
        listens = top == "socket" and SERVER in path.parents
        sends = top == "pickle" and path == BULK / "engines" / "spark.py"  # the units of a job, to its own workers
        if not (listens or sends or name == "urllib.parse"):
            assert top not in {"pickle", "marshal", "shelve", "socket", "urllib", "http"}, f"{path.name} imports {name}"


def of_room(path: Path, top: str) -> bool:
    """A package that the rooms for servers, bulk jobs and other frameworks may import."""
    rooms = ((SERVER, SERVING), (BULK, BULK_PACKAGES))
    return INTEGRATIONS in path.parents or any(room in path.parents and top in packages for room, packages in rooms)


def test_adapters_of_frameworks_are_imported_by_users_alone() -> None:
    for path in SOURCES:
        if INTEGRATIONS not in path.parents:
            assert not any(name.startswith("embedrt.integrations") for name, _ in imports(path)), path


def test_no_import_cycle() -> None:
    """Neither at import, nor inside of functions, nor for type checkers; but for the export that a name asks for."""
    graph = grimp.build_graph("embedrt", "embedrt_export")
    imported = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    imported["embedrt.hub.resolve"].remove("embedrt_export")
    order = [*TopologicalSorter(imported).static_order()]
    assert len(order) == len(graph.modules) > 100
    assert order.index("embedrt.errors") < order.index("embedrt.engine.session") < order.index("embedrt.embedder")
