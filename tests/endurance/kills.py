"""Kill loops: every operation that writes is killed at random points, then checked, then run again.

    python -m tests.endurance.kills --kills 300 --seed 0

A process is killed by SIGKILL at one of its steps on the disk (a file opened for writing, a rename, a deletion, ...),
or after a random time. Afterwards every bundle and file is the old one or the new one, whole; after the next run of
the same operation, nothing else is left in its folder.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from embedrt import Embedder, load_embeddings
from embedrt.bundle.manifest import MANIFEST
from tests.kit.bundles import copy_bundle
from tests.kit.hub_server import serve
from tests.kit.models import make_model

TEXT = "one river bank, two cats"
TEXTS = [f"{word} {i}" for i in range(60) for word in ("river", "money")]
_TIMEOUT_S = 120

# The child: runs the operation, and kills itself at its nth step on the disk; "count" prints the number of steps.
CHILD = r"""
import os, signal, sys
limit, code = int(sys.argv[1]), sys.argv[2]
STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate", "os.link", "shutil.rmtree"}
steps = 0
def step(event, arguments):
    global steps
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if event in STEPS or writes:
        steps += 1
        if steps == limit:
            os.kill(os.getpid(), signal.SIGKILL)
sys.argv[1:] = sys.argv[3:]
sys.addaudithook(step)
exec(code)
print("steps", steps)
"""
COMMAND = "from embedrt.cli.main import main; status = main(sys.argv[1:]); assert status == 0, status"


@dataclass(frozen=True)
class Place:
    """What an operation works with.

    Attributes:
        folder: A folder of its own; also the home of the store.
        models: The model repos "a" and "b".
        bundles: Their bundles.
        hub: The address of a hub that has bundle "a".
    """

    folder: Path
    models: dict[str, Path]
    bundles: dict[str, Path]
    hub: str


@dataclass(frozen=True)
class Operation:
    """An operation to kill.

    Attributes:
        prepare: Makes the state before it.
        code: Python code of the child, whose arguments are `arguments`.
        arguments: The arguments of the child.
        check: Raises AssertionError if what is there is neither old nor new, given whether the operation ended.
        expected: Names in the folder after a run that ended.
        timed: True to kill after a random time, for steps in other processes or in native code.
    """

    prepare: Callable[[Place], None]
    code: str
    arguments: Callable[[Place], list[str]]
    check: Callable[[Place, bool], None]
    expected: frozenset[str]
    timed: bool = False


def _nothing(place: Place) -> None:
    del place


def _vector(folder: Path) -> bytes:
    with Embedder(folder, verify="always") as model:
        vector: bytes = model.encode(TEXT).tobytes()
    return vector


def _is_bundle(folder: Path, place: Place, *names: str) -> None:
    assert _vector(folder) in {_vector(place.bundles[name]) for name in names}, f"{folder} is none of {names}"


def _bundle_or_nothing(name: str) -> Callable[[Place, bool], None]:
    def check(place: Place, ended: bool) -> None:
        assert not ended or (place.folder / name).exists(), f"{name} is missing"
        if (place.folder / name).exists():
            _is_bundle(place.folder / name, place, "a")

    return check


def _old_or_new(place: Place, ended: bool) -> None:
    _is_bundle(place.folder / "out", place, "a", *(() if ended else ("b",)))


def _bundle(place: Place, ended: bool) -> None:
    """The bundle loads; its measurements are not there, or whole."""
    del ended
    _is_bundle(place.folder / "out", place, "a")


def _put(name: str) -> Callable[[Place], None]:
    def prepare(place: Place) -> None:
        copy_bundle(place.bundles[name], place.folder / "out")

    return prepare


def _put_vectors(suffix: str) -> Callable[[Place], None]:
    def prepare(place: Place) -> None:
        from embedrt import save_embeddings

        save_embeddings(place.folder / f"v{suffix}", ["old"], np.ones((1, 3), np.float32))

    return prepare


def _vectors(suffix: str) -> Callable[[Place, bool], None]:
    def check(place: Place, ended: bool) -> None:
        loaded = load_embeddings(place.folder / f"v{suffix}")
        old = loaded.texts == ["old"] and loaded.vectors.tolist() == [[1.0, 1.0, 1.0]]
        new = loaded.texts == [str(i) for i in range(5000)] and bool((loaded.vectors == 2).all())
        assert new or (old and not ended), "vectors are neither the old nor the new ones"

    return check


def _output(place: Place, ended: bool) -> None:
    found = np.load(place.folder / "v.npy")
    assert found.shape == (2, 32) or (found.shape == (1, 3) and not ended), f"vectors of shape {found.shape}"


def _removed(place: Place, ended: bool) -> None:
    stored = [path.parent for path in place.folder.rglob(MANIFEST) if not path.parent.parent.name.startswith(".unf")]
    assert not (stored and ended), f"{stored} is still there"
    for folder in stored:
        _is_bundle(folder, place, "a")


def _no_process(place: Place, ended: bool) -> None:
    """The pool's processes end with the one that started them."""
    del ended
    until = time.monotonic() + 20
    while any(str(place.folder) in line for line in _command_lines()):
        assert time.monotonic() < until, "processes are left"
        time.sleep(0.05)


def _command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            yield path.read_text(errors="replace")


def _stored(place: Place, ended: bool) -> None:
    found = [path.parent for path in place.folder.rglob(MANIFEST) if ".unfinished-" not in str(path)]
    assert found or not ended, "nothing is in the store"
    for folder in found:
        _is_bundle(folder, place, "a")


def _store(place: Place) -> None:
    done = _run(COMMAND, ["export", str(place.models["a"]), "--name", STORE], place, 0)
    assert done.returncode == 0, done.stderr


SAVE = """
import numpy as np, embedrt
embedrt.save_embeddings(sys.argv[1], [str(i) for i in range(5000)], np.full((5000, 3), 2, np.float32))
"""
POOL = """
import embedrt
if __name__ == "__main__":
    model = embedrt.Embedder(sys.argv[1])
    with model.start_multi_process_pool(["cpu", "cpu"]) as pool:
        for _ in range(20):
            model.encode(["one", "two"] * 300, pool=pool, chunk_size=50)
"""
PRETRAINED = "import embedrt; embedrt.Embedder(sys.argv[1]).save_pretrained(sys.argv[2])"
DOWNLOAD = "import embedrt; embedrt.Embedder('org/a')"
STORE = "org/a"

OPERATIONS: dict[str, Operation] = {
    "export": Operation(
        _nothing,
        COMMAND,
        lambda place: ["export", str(place.models["a"]), "-o", str(place.folder / "out")],
        _bundle_or_nothing("out"),
        frozenset({"out"}),
    ),
    "overwrite": Operation(
        _put("b"),
        COMMAND,
        lambda place: ["export", str(place.models["a"]), "-o", str(place.folder / "out"), "--overwrite"],
        _old_or_new,
        frozenset({"out"}),
    ),
    "store": Operation(
        _nothing,
        COMMAND,
        lambda place: ["export", str(place.models["a"]), "--name", STORE],
        _stored,
        frozenset(),
    ),
    "download": Operation(_nothing, DOWNLOAD, lambda _: [], _stored, frozenset(), timed=True),
    "tune": Operation(
        _put("a"),
        COMMAND,
        lambda place: ["tune", str(place.folder / "out"), "--seconds", "0.5"],
        _bundle,
        frozenset({"out"}),
    ),
    "ranges": Operation(
        _put("a"),
        COMMAND,
        lambda place: ["ranges", str(place.folder / "out"), "--texts", str(place.models["a"].parent / "texts")],
        _bundle,
        frozenset({"out"}),
    ),
    "save .npy": Operation(
        _put_vectors(".npy"),
        SAVE,
        lambda place: [str(place.folder / "v.npy")],
        _vectors(".npy"),
        frozenset({"v.npy", "v.npy.json"}),
    ),
    "save .safetensors": Operation(
        _put_vectors(".safetensors"),
        SAVE,
        lambda place: [str(place.folder / "v.safetensors")],
        _vectors(".safetensors"),
        frozenset({"v.safetensors"}),
    ),
    "save .parquet": Operation(
        _put_vectors(".parquet"),
        SAVE,
        lambda place: [str(place.folder / "v.parquet")],
        _vectors(".parquet"),
        frozenset({"v.parquet"}),
    ),
    "encode --output": Operation(
        lambda place: np.save(place.folder / "v.npy", np.ones((1, 3), np.float32)),
        COMMAND,
        lambda place: ["encode", "-m", str(place.bundles["a"]), "x", "y", "--output", str(place.folder / "v.npy")],
        _output,
        frozenset({"v.npy"}),
    ),
    "save_pretrained": Operation(
        _nothing,
        PRETRAINED,
        lambda place: [str(place.bundles["a"]), str(place.folder / "out")],
        _bundle_or_nothing("out"),
        frozenset({"out"}),
    ),
    "remove": Operation(
        _store,
        COMMAND,
        lambda _: ["remove", STORE],
        _removed,
        frozenset(),
    ),
    "pool": Operation(
        _put("a"), POOL, lambda place: [str(place.folder / "out")], _no_process, frozenset({"out"}), timed=True
    ),
}
"""The operations by name."""


def _environment(place: Place) -> dict[str, str]:
    home = str(place.folder / "home")
    return {**os.environ, "EMBEDRT_HOME": home, "HF_HOME": home, "HF_ENDPOINT": place.hub, "PLACE": str(place.folder)}


def _run(code: str, arguments: list[str], place: Place, limit: int, after_s: float | None = None) -> "Done":
    """Run a child; kill it at a step, or after a time."""
    command = [sys.executable, "-c", CHILD, str(limit), code, *arguments]
    if "__main__" in code:  # processes of a pool import the script
        script = place.folder.parent / "pool.py"
        script.write_text(f"import sys\n{code}")
        command = [sys.executable, str(script), *arguments]
    with subprocess.Popen(
        command, env=_environment(place), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, error = process.communicate(timeout=_TIMEOUT_S if after_s is None else after_s)
        except subprocess.TimeoutExpired:
            assert after_s is not None, f"{arguments}: takes longer than {_TIMEOUT_S} s"
            process.send_signal(signal.SIGKILL)
            out, error = process.communicate()
    steps = re.search(r"^steps (\d+)$", out, re.MULTILINE)
    return Done(process.returncode, error, int(steps[1]) if steps else 0)


@dataclass(frozen=True)
class Done:
    """The end of a child: exit status, standard error, and steps on the disk if it ended by itself."""

    returncode: int
    stderr: str
    steps: int


@contextmanager
def _fresh(operation: Operation, given: Place) -> Iterator[Place]:
    """A place with the state before the operation."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place = replace(given, folder=Path(folder) / "place")
        place.folder.mkdir()
        operation.prepare(place)
        yield place


def _leftovers(operation: Operation, place: Place) -> list[str]:
    """Names that a finished operation should not leave, in its folder or in the store."""
    here = {path.name for path in place.folder.iterdir()} - operation.expected - {"home"}
    stored = [str(path.relative_to(place.folder)) for path in place.folder.rglob(".*") if path.is_dir()]
    return sorted(here) + [name for name in stored if ".unfinished-" in name]


def kill_once(name: str, draw: random.Random, whole: tuple[int, float], given: Place) -> str | None:
    """Kill an operation at a random point and check; return what went wrong, if something did.

    Args:
        name: The operation.
        draw: The source of chance.
        whole: Steps and seconds of a run that ends by itself.
        given: The models, bundles and hub.
    """
    operation = OPERATIONS[name]
    steps, seconds = whole
    with _fresh(operation, given) as place:
        limit = 0 if operation.timed else draw.randint(1, steps)
        after = draw.uniform(0.0, seconds) if operation.timed else None
        where = f"{name}, killed {f'after {after:.2f} s' if after is not None else f'at step {limit} of {steps}'}"
        try:
            killed = _run(operation.code, operation.arguments(place), place, limit, after)
            if killed.returncode not in {0, -signal.SIGKILL}:
                return f"{where}: ended with {killed.returncode}: {killed.stderr[-300:]}"
            operation.check(place, killed.returncode == 0)
            again = _run(operation.code, _again(operation, place), place, 0)
            if again.returncode != 0 and not (name == "remove" and "not in the" in again.stderr):
                return f"{where}: the next run ended with {again.returncode}: {again.stderr[-300:]}"
            operation.check(place, True)
        except Exception as error:  # noqa: BLE001 - whatever comes out is a finding
            return f"{where}: {type(error).__name__}: {error}"
        left = _leftovers(operation, place)
        return f"{where}: {left} is left" if left else None


def _again(operation: Operation, place: Place) -> list[str]:
    """The arguments of the next run: an export or a copy to a place that has a bundle already overwrites it."""
    arguments = operation.arguments(place)
    if arguments and arguments[0] == "export" and (place.folder / "out").exists() and "--overwrite" not in arguments:
        return [*arguments, "--overwrite"]
    if operation.code == PRETRAINED and (place.folder / "out").exists():
        shutil.rmtree(place.folder / "out")
    return arguments


def run(kills: int, seed: int, names: list[str]) -> list[str]:
    """Kill operations in turn; return the findings."""
    draw = random.Random(seed)
    findings = []
    with tempfile.TemporaryDirectory() as folder, serve() as hub:
        models = {name: make_model(Path(folder) / name, seed=i) for i, name in enumerate("ab")}
        (Path(folder) / "texts").write_text("\n".join(TEXTS))
        bundles = {name: Path(folder) / f"bundle-{name}" for name in models}
        given = Place(Path(folder), models, bundles, hub.url)
        for name, model in models.items():
            done = _run(COMMAND, ["export", str(model), "-o", str(bundles[name])], given, 0)
            assert done.returncode == 0, done.stderr
        hub.add(STORE, bundles["a"])
        whole = {}
        for name in names:
            operation = OPERATIONS[name]
            with _fresh(operation, given) as place:
                started = time.monotonic()
                done = _run(operation.code, operation.arguments(place), place, 0)
                assert done.returncode == 0, f"{name}: {done.stderr}"
                whole[name] = (done.steps, time.monotonic() - started)
                operation.check(place, True)
                assert not (left := _leftovers(operation, place)), f"{name}: {left}"
        for i in tqdm(range(kills), unit="kill", disable=not sys.stderr.isatty()):
            name = names[i % len(names)]
            if finding := kill_once(name, draw, whole[name], given):
                print(finding, flush=True)
                findings.append(finding)
    return findings


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    started = time.monotonic()
    findings = run(arguments.kills, arguments.seed, arguments.only)
    print(f"{arguments.kills} kills in {time.monotonic() - started:.0f} s, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
