"""A bundle that is replaced while it is in use: the old model, the new model, or an error; never a mixture."""

import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedrt
from embedrt import BundleError, Embedder
from embedrt.bundle import check, locks, opened
from embedrt.bundle.atomic import publish
from embedrt.bundle.locks import Lock
from embedrt.bundle.manifest import open_bundle, read_bundle
from embedrt.bundle.staging import staging, unfinished
from embedrt.types import Vectors
from embedrt.verify.bundle import verify
from embedrt_export import export
from tests.kit.bundles import copy_bundle
from tests.kit.models import make_model
from tests.kit.shared_folders import shared_folder

TEXTS = [f"{word} by the river " * (i % 7) + word for i, word in enumerate(["cat", "money", "boat"] * 100)]
DATA = "onnx/model.onnx_data"
CHANGED = r"expected the file that was there when the model was loaded, got (another|none); load the model again"
with_locks = pytest.mark.parametrize("kept", ["kept", "by path"], indirect=True)
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a folder is kept by its descriptor")


def make_two(folder: Path) -> None:
    """Two bundles of the same shape, with other weights and another order of the vocabulary."""
    for name, seed in (("a", 1), ("b", 2)):
        model = make_model(folder / name / "model", seed=seed)
        if name == "b":
            path = model / "tokenizer.json"
            tokenizer = json.loads(path.read_bytes())
            vocabulary = tokenizer["model"]["vocab"]
            vocabulary["cat"], vocabulary["river"] = vocabulary["river"], vocabulary["cat"]
            path.write_text(json.dumps(tokenizer))
        export(model, folder / name / "bundle")


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = shared_folder(tmp_path_factory, "replaced", make_two)
    return folder / "a" / "bundle", folder / "b" / "bundle"


@pytest.fixture
def target(two: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the first."""
    return copy_bundle(two[0], tmp_path / "place" / "bundle")


@pytest.fixture(params=["kept", "by path", "without locks"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """True if the folder of an open bundle is kept."""
    if request.param == "kept" and not sys.platform.startswith("linux"):
        pytest.skip("a folder is kept by its descriptor")
    if request.param == "by path":
        monkeypatch.setattr(opened, "lock_folder", lambda *_, **__: (None, Lock.UNSUPPORTED))
    if request.param == "without locks":
        monkeypatch.setattr(locks, "try_lock", lambda *_, **__: Lock.UNSUPPORTED)
    return bool(request.param == "kept")


def replace(target: Path, bundle: Path) -> None:
    """Do what `embedrt export --overwrite` does in the end."""
    with staging(target) as folder:
        shutil.copytree(bundle, folder, dirs_exist_ok=True)
        publish(folder, target, overwrite=True)


def expect(kept: bool, call: Callable[[], Any], wanted: Any) -> None:
    """The old model goes on if its folder is kept; otherwise the error says what to do."""
    if kept:
        np.testing.assert_array_equal(call(), wanted)
    else:
        with pytest.raises(BundleError, match=CHANGED):
            call()


def test_the_two_differ(two: tuple[Path, Path]) -> None:
    a, b = map(Embedder, two)
    assert a.fingerprint != b.fingerprint
    assert np.abs(a.encode("the boat") - b.encode("the boat")).max() > 0.05
    assert a.tokenizer.encode("cat") != b.tokenizer.encode("cat")
    assert (two[0] / DATA).stat().st_size == (two[1] / DATA).stat().st_size


def test_between_load_and_first_use(target: Path, two: tuple[Path, Path], kept: bool) -> None:
    model, wanted = Embedder(target), Embedder(two[0]).encode(TEXTS)
    replace(target, two[1])
    expect(kept, lambda: model.encode(TEXTS), wanted)
    assert Embedder(target).fingerprint == read_bundle(two[1]).fingerprint


@pytest.mark.parametrize("first", ["single", "list"])
def test_between_single_texts_and_lists(target: Path, two: tuple[Path, Path], kept: bool, first: str) -> None:
    model, wanted = Embedder(target, threads=2), Embedder(two[0], threads=2)
    calls: list[tuple[Callable[[], Vectors], Vectors]] = [
        (lambda: model.encode(TEXTS[1]), wanted.encode(TEXTS[1])),
        (lambda: model.encode(TEXTS), wanted.encode(TEXTS)),
    ]
    before, after = calls if first == "single" else calls[::-1]
    np.testing.assert_array_equal(before[0](), before[1])
    replace(target, two[1])
    np.testing.assert_array_equal(before[0](), before[1])
    expect(kept, *after)


@pytest.mark.parametrize("verify", ["once", "always", "never"])
@pytest.mark.usefixtures("kept")
def test_another_data_file_alone(target: Path, two: tuple[Path, Path], verify: Any) -> None:
    model = Embedder(target, verify=verify)
    shutil.copy2(two[1] / DATA, target / "x")
    (target / "x").replace(target / DATA)
    for _ in range(2):
        with pytest.raises(BundleError, match=f"{DATA}: {CHANGED}"):
            model.encode(TEXTS)
    shutil.copy2(two[0] / DATA, target / "x")
    (target / "x").replace(target / DATA)
    np.testing.assert_array_equal(model.encode(TEXTS), Embedder(two[0]).encode(TEXTS))


@pytest.mark.usefixtures("kept")
def test_a_missing_file(target: Path) -> None:
    model = Embedder(target)
    (target / DATA).unlink()
    with pytest.raises(BundleError, match=f"{DATA}: {CHANGED}") as caught:
        model.encode(TEXTS)
    assert str(target) in str(caught.value)


@with_locks
@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("verify", ["once", "never"])
def test_the_same_content_in_another_file(target: Path, two: tuple[Path, Path], verify: Any) -> None:
    """Some network file systems number their files anew, and an export may write the same model again."""
    model, wanted = Embedder(target, verify=verify), Embedder(two[0]).encode(TEXTS)
    replace(target, two[0])
    np.testing.assert_array_equal(model.encode(TEXTS), wanted)
    for path in target.rglob("*"):
        os.utime(path)
    np.testing.assert_array_equal(model.encode(TEXTS[1]), Embedder(two[0]).encode(TEXTS[1]))


def test_a_tokenizer_with_another_limit(target: Path, two: tuple[Path, Path], kept: bool) -> None:
    model, wanted = Embedder(target), Embedder(two[0])
    model.encode("x")
    for each in (model, wanted):
        each.encode(TEXTS)
        each.max_seq_length = 8
    expected = wanted.encode(TEXTS)
    replace(target, two[1])
    expect(kept, lambda: model.encode(TEXTS), expected)


def test_a_tokenizer_for_scripts(target: Path, two: tuple[Path, Path], kept: bool) -> None:
    model = Embedder(target)
    replace(target, two[1])
    expect(kept, lambda: model.tokenizer.encode("the cat"), Embedder(two[0]).tokenizer.encode("the cat"))


@pytest.mark.subprocess
def test_a_pool(target: Path, two: tuple[Path, Path], kept: bool) -> None:
    model, wanted = Embedder(target), Embedder(two[0]).encode(TEXTS, device=["cpu"])
    with model.start_multi_process_pool(["cpu"]) as pool:
        np.testing.assert_array_equal(model.encode(TEXTS, pool=pool), wanted)
        replace(target, two[1])
        np.testing.assert_array_equal(model.encode(TEXTS, pool=pool), wanted)
        os.kill(pool.processes[0], 9)
        expect(kept, lambda: model.encode(TEXTS, pool=pool), wanted)
    expect(kept, lambda: model.encode(TEXTS, device=["cpu"]), wanted)


@pytest.mark.subprocess
@pytest.mark.usefixtures("kept")
def test_a_pool_and_another_data_file_alone(target: Path, two: tuple[Path, Path]) -> None:
    model = Embedder(target)
    shutil.copy2(two[1] / DATA, target / "x")
    (target / "x").replace(target / DATA)
    with pytest.raises(BundleError, match=f"{DATA}: {CHANGED}"):
        model.start_multi_process_pool(["cpu"])


@linux_only
def test_a_worker_that_cannot_see_its_parent(target: Path, two: tuple[Path, Path]) -> None:
    """As where `/proc` hides the processes of others: the path serves, if it still leads to the same files."""
    files = open_bundle(target).files
    shared = files.shared()
    blind = opened.SharedFiles(shared.folder, Path("/proc/1/fd/none"), shared.records, shared.identities)
    assert blind.open().folder == target
    replace(target, two[1])
    assert shared.open().is_replaced
    with pytest.raises(BundleError, match=CHANGED):
        blind.open()


def test_verify(target: Path, two: tuple[Path, Path], kept: bool) -> None:
    model = Embedder(target)
    model.encode(TEXTS)
    replace(target, two[1])
    if kept:
        assert verify(model)
    else:
        with pytest.raises(BundleError):
            verify(model)


def test_a_copy(target: Path, two: tuple[Path, Path], kept: bool, tmp_path: Path) -> None:
    model = Embedder(target)
    replace(target, two[1])
    if kept:
        model.save_pretrained(tmp_path / "copy")
        assert Embedder(tmp_path / "copy").fingerprint == model.fingerprint
    else:
        with pytest.raises(BundleError, match=CHANGED):
            model.save_pretrained(tmp_path / "copy")
        assert not (tmp_path / "copy").exists()


@pytest.mark.usefixtures("kept")
def test_a_pickled_model_is_not_another(target: Path, two: tuple[Path, Path]) -> None:
    data = pickle.dumps(Embedder(target))
    replace(target, two[1])
    with pytest.raises(BundleError, match="another bundle than when the model was pickled; load it by its name"):
        pickle.loads(data)


@pytest.mark.usefixtures("kept")
def test_ranges_of_a_replaced_bundle_are_not_written(
    target: Path, two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: Callable[..., Any] = Embedder.encode

    def encode(self: Embedder, *arguments: Any, **options: Any) -> Any:
        vectors = plain(self, *arguments, **options)
        replace(target, two[1])
        return vectors

    with monkeypatch.context() as patched:
        patched.setattr(Embedder, "encode", encode)
        with pytest.raises(BundleError, match="the bundle changed while its ranges were measured"):
            embedrt.ranges(target, TEXTS)
    gc.collect()
    assert read_bundle(target) == read_bundle(two[1])
    with staging(target):
        pass
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("step", ["manifest", "files", "tokenizer"])
def test_while_it_is_loaded(
    target: Path, two: tuple[Path, Path], kept: bool, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is the old one where that is kept, else the new one; loading does not fail."""
    module, name = {
        "manifest": ("embedrt.bundle.manifest", "decode"),
        "files": ("embedrt.bundle.opened", "check_files"),
        "tokenizer": ("embedrt.inputs.text", "read_tokenizer"),
    }[step]
    plain = getattr(sys.modules[module], name)
    replaced: list[str] = []

    def hooked(*arguments: Any, **options: Any) -> Any:
        if not replaced:
            replaced.append(step)
            replace(target, two[1])
        return plain(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[module], name, hooked)
        model = Embedder(target)
    assert replaced
    (source,) = (path for path in two if read_bundle(path).fingerprint == model.fingerprint)
    assert source == two[0 if kept else 1]
    if kept:
        np.testing.assert_array_equal(model.encode(TEXTS), Embedder(source).encode(TEXTS))
    assert Embedder(target).fingerprint == read_bundle(two[1]).fingerprint


def test_a_file_that_vanishes_while_it_is_loaded(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = check.plain_file_size

    def vanish(*arguments: Any) -> int:
        size = plain(*arguments)
        (target / "embedrt.json").unlink()
        return size

    monkeypatch.setattr("embedrt.bundle.manifest.plain_file_size", vanish)
    with pytest.raises(BundleError, match=r"embedrt\.json: cannot be read: No such file or directory"):
        Embedder(target)


@with_locks
@pytest.mark.skipif(os.name == "nt", reason="Windows needs privileges for links")
def test_a_link_that_leads_to_another_bundle(two: tuple[Path, Path], kept: bool, tmp_path: Path) -> None:
    """A usual way to deploy: `current` leads to a version."""
    for name, bundle in zip("ab", two, strict=True):
        copy_bundle(bundle, tmp_path / name)
    (tmp_path / "current").symlink_to("a")
    embedrt.ranges(tmp_path / "current", TEXTS)
    assert read_bundle(tmp_path / "a").vector_ranges is not None
    model, wanted = Embedder(tmp_path / "current"), Embedder(two[0]).encode(TEXTS)
    (tmp_path / "link").symlink_to("b")
    (tmp_path / "link").replace(tmp_path / "current")
    expect(kept, lambda: model.encode(TEXTS), wanted)


@linux_only
class TestDescriptors:
    def test_a_replaced_bundle_stays_while_it_is_used(self, target: Path, two: tuple[Path, Path]) -> None:
        model = Embedder(target)
        for _ in range(3):
            replace(target, two[1])
        assert len(list(target.parent.iterdir())) == 2
        assert unfinished(target.parent) == []
        model.close()
        (leftover,) = unfinished(target.parent)
        with staging(target):
            assert not leftover.exists()
        assert list(target.parent.iterdir()) == [target]

    def test_runners_outlive_a_closed_model(self, target: Path, two: tuple[Path, Path]) -> None:
        """A call that runs while the model is closed ends well."""
        model = Embedder(target)
        (runner,) = model.runners.values()
        model.close()
        replace(target, two[1])
        assert runner.tokenizer(8) is not None
        del runner
        assert len(unfinished(target.parent)) == 1

    def test_none_is_left(self, target: Path) -> None:
        def descriptors() -> int:
            gc.collect()
            return len(list(Path("/proc/self/fd").iterdir()))

        Embedder(target).encode("x")
        before = descriptors()
        for i in range(50):
            model = Embedder(target)
            if i % 10 == 0:
                model.encode("x")
            if i % 2:
                model.close()
            del model
        assert descriptors() == before

    def test_no_child_has_them(self, target: Path, two: tuple[Path, Path]) -> None:
        model = Embedder(target)
        command = [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, close_fds=False
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "1\n"
            model.close()
            replace(target, two[1])
            assert list(target.parent.iterdir()) == [target]
            child.kill()

    def test_one_that_the_program_closes(self, target: Path) -> None:
        """As programs do that close everything they did not open."""
        model = Embedder(target)
        files = model.loaded.bundle.files
        os.close(int(files.root.name))
        os.open(os.devnull, os.O_RDONLY)  # takes its number, and the model closes it
        with pytest.raises(BundleError, match=CHANGED):
            model.encode("x")

    def test_messages_name_the_path_of_the_user(self, target: Path) -> None:
        graph = target / "onnx" / "model_cpu.onnx"
        graph.write_bytes(bytes(graph.stat().st_size))
        model = Embedder(target, verify="never")
        with pytest.raises(embedrt.DeviceError) as caught:
            model.encode("x")
        assert str(graph) in str(caught.value)
        assert "/proc/" not in str(caught.value)


OVERWRITE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from embedrt.bundle import atomic
from tests.faults.test_replaced import replace
way, target, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
if way == "two renames":
    atomic.exchange = lambda *_: False
print("ready", flush=True)
sys.stdin.readline()
for i in range(rounds):
    replace(target, Path(sys.argv[5 + (i + 1) % 2]))
"""
LOAD = """
import sys
from pathlib import Path
import numpy as np
from embedrt import BundleError, Embedder
from embedrt.bundle import locks, opened
way, target, texts = sys.argv[1], Path(sys.argv[2]), ["cat by the river " * (i % 5) + "boat" for i in range(40)]
wanted = {}
for path in sys.argv[3:]:
    model = Embedder(path, threads=2)
    wanted[model.fingerprint] = model.encode(texts[1]), model.encode(texts)
if way == "two renames":
    opened.lock_folder = lambda *_, **__: (None, locks.Lock.UNSUPPORTED)
print("ready", flush=True)
seen, refused = set(), 0
while True:
    model = Embedder(target, threads=2)
    try:
        single, many = model.encode(texts[1]), model.encode(texts)
    except BundleError as error:
        assert way == "two renames" and "load the model again" in str(error), error
        refused += 1
    else:
        assert np.array_equal(single, wanted[model.fingerprint][0])
        assert np.array_equal(many, wanted[model.fingerprint][1])
        seen.add(model.fingerprint)
    if Path(target.parent, "stop").exists():
        break
assert len(seen) == 2 or way == "two renames", seen
"""


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize("way", [pytest.param("exchange", marks=linux_only), "two renames"])
def test_overwriting_in_a_loop_beside_loading_and_encoding(target: Path, two: tuple[Path, Path], way: str) -> None:
    """Loading never fails, and every vector is of the model that the fingerprint names."""

    def start(*arguments: object) -> "subprocess.Popen[str]":
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", *map(str, arguments)], **pipes)

    loaders = [start(LOAD, way, target, *two) for _ in range(2)]
    overwriter = start(OVERWRITE, way, target, 120, Path(__file__).parents[2], *two)
    try:
        for process in (*loaders, overwriter):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()[1]
        assert overwriter.communicate("\n", timeout=300) == ("", "")
        (target.parent / "stop").touch()
        for process in loaders:
            assert process.communicate(timeout=60)[1] == ""
            assert process.returncode == 0
    finally:
        for process in (*loaders, overwriter):
            process.kill()
            process.communicate()
    with staging(target):
        pass
    assert sorted(path.name for path in target.parent.iterdir()) == ["bundle", "stop"]
