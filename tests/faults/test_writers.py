"""Writers on a full disk and killed at every step: what was there stays whole, and the message says what failed."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import Embedder, ExportError, save_embeddings
from embedrt.bundle.manifest import MANIFEST, TUNED, read_bundle
from embedrt.errors import BundleError, EmbeddingsError
from embedrt.vectors.files import save_matrix
from embedrt_export import export
from tests.kit.bundles import copy_bundle
from tests.kit.embedding_files import every_format, vectors_of

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has neither RLIMIT_FSIZE nor fork")
REPO = Path(__file__).parents[2]
TEXTS = [f"the {word} of {i}" for i in range(60) for word in ("cat", "dog")]
TOO_LARGE = "failed: File too large; "

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
"""


def limited(size: int, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs code in a process that can write no file above a size, as on a disk with that much room."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED + code, str(size), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=REPO,
    )


def command(size: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a command line in such a process."""
    code = "from embedrt.cli.main import main\nsys.exit(main(sys.argv[2:]))"
    return limited(size, code, *arguments)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestEncode:
    """`embedrt encode --output`."""

    @pytest.mark.subprocess
    @pytest.mark.parametrize("before", [None, b"what was there"])
    def test_no_room(self, tiny_bundle: Path, tmp_path: Path, before: bytes | None) -> None:
        folder = tmp_path / "out"
        folder.mkdir()
        path = folder / "v.npy"
        if before is not None:
            path.write_bytes(before)
        done = command(4096, "encode", "-m", tiny_bundle, "--output", path, *TEXTS)
        left = "what was there is unchanged" if before else "nothing was left there"
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"embedrt: {path}: writing {len(TEXTS) * 32 * 4} bytes {TOO_LARGE}{left}\n"
        assert contents(folder) == ({} if before is None else {"v.npy": before})

    @pytest.mark.subprocess
    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this platform has no /dev/full")
    def test_a_full_device(self, tiny_bundle: Path) -> None:
        done = command(1 << 30, "encode", "-m", tiny_bundle, "--output", "/dev/full", "a")
        assert done.returncode == 1
        assert done.stderr.startswith("embedrt: /dev/full: writing 128 bytes failed: No space left on device; ")
        assert done.stderr.count("\n") == 1

    @pytest.mark.subprocess
    @pytest.mark.parametrize("redirected", ["| cat", "> $2/file; cat $2/file", ">> $2/file; cat $2/file"])
    @pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
    def test_standard_output(self, tiny_bundle: Path, tmp_path: Path, redirected: str, name: str) -> None:
        line = f'"$0" -m embedrt encode -m $1 --output {name} "the cat" {redirected}'
        done = subprocess.run(
            ["bash", "-c", line, sys.executable, str(tiny_bundle), str(tmp_path)],
            capture_output=True,
            check=False,
            timeout=60,
            cwd=REPO,
        )
        np.save(tmp_path / "expected.npy", Embedder(tiny_bundle).encode(["the cat"]))
        assert done.stdout == (tmp_path / "expected.npy").read_bytes(), done.stderr

    @pytest.mark.parametrize("existing", [True, False])
    def test_a_link(self, tmp_path: Path, existing: bool) -> None:
        (tmp_path / "elsewhere").mkdir()
        target, link = tmp_path / "elsewhere" / "v.npy", tmp_path / "link.npy"
        if existing:
            target.write_bytes(b"before")
            target.chmod(0o600)
        link.symlink_to(Path("elsewhere") / "v.npy")
        save_matrix(link, vectors_of(4))
        assert link.is_symlink()
        assert (tmp_path / "elsewhere" / "v.npy").is_file()
        np.testing.assert_array_equal(np.load(target), vectors_of(4))
        assert not existing or stat.S_IMODE(target.stat().st_mode) == 0o600
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["elsewhere", "link.npy", "v.npy"]

    def test_a_pipe(self, tmp_path: Path) -> None:
        path, found = tmp_path / "pipe", list[bytes]()
        os.mkfifo(path)
        reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
        reader.start()
        save_matrix(path, vectors_of(4))
        reader.join()
        np.save(tmp_path / "v.npy", vectors_of(4))
        assert found == [(tmp_path / "v.npy").read_bytes()]
        assert path.is_fifo()

    @pytest.mark.parametrize("matrix", [vectors_of(4), vectors_of(0), vectors_of(3, dtype="int8"), vectors_of(4).T])
    def test_the_bytes_are_those_of_numpy(self, tmp_path: Path, matrix: Any) -> None:
        save_matrix(tmp_path / "v.npy", matrix)
        np.save(tmp_path / "expected.npy", np.ascontiguousarray(matrix))
        assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


class TestFullDisk:
    @pytest.mark.subprocess
    @every_format
    def test_save_embeddings(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        save_embeddings(path, ["a"], vectors_of(1))
        before = contents(tmp_path)
        code = """
import numpy as np
from embedrt import EmbeddingsError, save_embeddings
try:
    save_embeddings(sys.argv[2], ["text"] * 1000, np.ones((1000, 8), np.float32))
except EmbeddingsError as error:
    print(error)
"""
        done = limited(4096, code, path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{path}: writing 36000 bytes failed: ")
        assert "File too large" in done.stdout
        assert done.stdout.endswith("; what was there is unchanged\n")
        assert contents(tmp_path) == before

    @pytest.mark.subprocess
    def test_save_pretrained(self, tiny_bundle: Path, tmp_path: Path) -> None:
        code = """
from embedrt import BundleError, Embedder
try:
    Embedder(sys.argv[2]).save_pretrained(sys.argv[3])
except BundleError as error:
    print(error)
"""
        done = limited(4096, code, tiny_bundle, tmp_path / "copy")
        size = sum(record.size for record in read_bundle(tiny_bundle).files.values())
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{tmp_path / 'copy'}: writing {size} bytes {TOO_LARGE}nothing was left there\n"
        assert not list(tmp_path.glob("[!e]*"))

    @pytest.mark.subprocess
    def test_export(self, tiny_source: Path, tmp_path: Path) -> None:
        done = command(20_000, "export", tiny_source, "-o", tmp_path / "bundle")
        assert (done.returncode, done.stdout) == (1, "")
        *_, line = done.stderr.splitlines()
        assert line.startswith(f"embedrt: {tmp_path / 'bundle'}: writing more than ")
        assert line.endswith(f" bytes {TOO_LARGE}nothing was left there")
        assert not (tmp_path / "bundle").exists()

    @pytest.mark.subprocess
    def test_ranges(self, tiny_bundle: Path, tmp_path: Path) -> None:
        bundle, lines = copy_bundle(tiny_bundle, tmp_path / "bundle"), tmp_path / "lines.txt"
        lines.write_text("\n".join(TEXTS))
        before = contents(bundle)
        done = command(1000, "ranges", bundle, "--texts", lines)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"embedrt: {bundle / MANIFEST}: writing " in done.stderr
        assert done.stderr.endswith(f" bytes {TOO_LARGE}what was there is unchanged\n")
        assert contents(bundle) == before

    @pytest.mark.subprocess
    def test_tune(self, tiny_bundle: Path, tmp_path: Path) -> None:
        bundle = copy_bundle(tiny_bundle, tmp_path / "bundle")
        before = contents(bundle)
        done = command(100, "tune", bundle, "--seconds", "0.01")
        assert (done.returncode, done.stdout) == (1, "")
        assert f"embedrt: {bundle / TUNED}: writing " in done.stderr
        assert done.stderr.endswith(f" bytes {TOO_LARGE}nothing was left there\n")
        assert contents(bundle) == before

    def test_other_errors_of_an_export_are_not_dressed_up(self, tiny_source: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="file") as caught:
            export(tiny_source, tmp_path / "file" / "bundle")
        assert not isinstance(caught.value, (ExportError, BundleError))

    @every_format
    def test_a_folder_that_is_a_file(self, tmp_path: Path, suffix: str) -> None:
        (tmp_path / "file").write_text("")
        path = tmp_path / "file" / f"x{suffix}"
        with pytest.raises(EmbeddingsError, match=r"bytes failed: (Not a directory|File exists); nothing was left"):
            save_embeddings(path, ["a"], vectors_of(1))


KILL = """
import json, shutil, sys
from pathlib import Path
import numpy as np
from embedrt import load_embeddings, save_embeddings
from embedrt.vectors.files import save_matrix
from tests.kit.kill_steps import kill_at_every_step

folder, name, first = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "first"
path = folder / name
old, new = np.zeros((2, 8), np.float32), np.ones((3, 8), np.float32)

def save(vectors):
    if name == "matrix.npy":
        save_matrix(path, vectors)
    else:
        save_embeddings(path, [f"text {v}" for v in vectors[:, 0]], vectors)

def load():
    if name == "matrix.npy":
        return np.load(path)
    found = load_embeddings(path)
    assert found.texts == [f"text {v}" for v in found.vectors[:, 0]], found.texts
    return found.vectors

def prepare():
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if not first:
        save(old)

seen = set()

def check():
    try:
        found = load()
    except FileNotFoundError:
        assert first
        seen.add("absent")
        return
    seen.add("old" if np.array_equal(found, old) else "new" if np.array_equal(found, new) else "neither")

print(json.dumps([kill_at_every_step(prepare, lambda: save(new), check), sorted(seen)]))
"""


@pytest.mark.subprocess
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", ["matrix.npy", "x.npy", "x.safetensors", "x.parquet"])
def test_killed_at_every_step(tmp_path: Path, name: str, first: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILL, str(tmp_path / "files"), name, "first" if first else "again"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=REPO,
    )
    assert done.returncode == 0, done.stderr
    steps, seen = json.loads(done.stdout)
    assert steps >= 5
    assert seen == sorted(["absent" if first else "old", "new"])


@pytest.mark.subprocess
def test_a_writer_that_is_not_atomic_is_found(tmp_path: Path) -> None:
    """The control of the test above."""
    code = KILL.replace("        save_matrix(path, vectors)", "        np.save(path, vectors)")
    code = code.replace("def load():", "def load():\n    assert path.stat().st_size, 'neither'")
    code = code.replace("lambda: save(new)", "overwrite")
    in_place = "def overwrite():\n    path.open('wb').close()\n    path.chmod(0o644)\n    save(new)\n\n"
    code = code.replace("seen = set()", f"{in_place}seen = set()")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "files"), "matrix.npy", "again"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=REPO,
    )
    assert done.returncode == 1
    assert done.stderr.endswith("AssertionError: neither\n")
