"""How a bundle comes to its place: staged beside it, moved in one step, and cleaned up after killed processes."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from embedrt import BundleError
from embedrt.bundle import atomic
from embedrt.bundle import staging as staging_module
from embedrt.bundle.atomic import exchange, publish, umask
from embedrt.bundle.locks import Lock, try_lock
from embedrt.bundle.opened import BundleFiles
from embedrt.bundle.staging import recover, set_aside, staging, unfinished


def test_staging_beside_the_target_and_nothing_left(tmp_path: Path) -> None:
    def fail() -> None:
        with staging(tmp_path / "a" / "b") as folder:
            assert folder.parent.parent == tmp_path / "a"
            (folder / "half").write_text("")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list((tmp_path / "a").iterdir()) == []


def test_staging_in_a_folder_where_another_process_finishes(tmp_path: Path) -> None:
    """A dangling link stands for a folder that was listed and is gone when it is looked at."""
    (tmp_path / ".unfinished-gone").symlink_to(tmp_path / "nowhere")
    assert unfinished(tmp_path) == []
    with staging(tmp_path / "bundle") as folder:
        assert folder.is_dir()


STAGE = """
import sys
from pathlib import Path
from embedrt.bundle.staging import staging
with staging(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("")
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process(target: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A process with a staging folder, which it leaves when it may."""
    command = [sys.executable, "-c", STAGE, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Path(process.stdout.readline().strip()).parent, process
        finally:
            process.kill()


@pytest.mark.subprocess
def test_the_folder_of_a_living_process_stays_however_old(tmp_path: Path) -> None:
    with other_process(tmp_path / "a") as (folder, process):
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (0, 0))
        with staging(tmp_path / "b"):
            assert (folder / "new" / "half").exists()
        assert unfinished(tmp_path) == []
        process.communicate("")
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.subprocess
def test_the_folder_of_a_killed_process_goes_at_once(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with other_process(tmp_path / "a") as (folder, process):
        process.kill()
        process.wait()
    assert unfinished(tmp_path) == [folder]
    with staging(tmp_path / "b") as mine:
        assert sorted(tmp_path.iterdir()) == sorted([mine.parent, other])
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize(
    ("name", "on_block_device", "days", "kept"),
    [
        ("another-x", True, 0, False),
        ("another-x", False, 0, True),
        ("another-x", False, 2, False),
        ("own-x", False, 0, False),
        ("own-x", True, 0, False),
    ],
)
def test_what_processes_of_other_machines_may_still_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, on_block_device: bool, days: int, kept: bool
) -> None:
    """A network file system may keep locks to one machine."""
    monkeypatch.setattr(staging_module, "_kernel", lambda: "own")
    monkeypatch.setattr(staging_module, "_is_on_block_device", lambda _: on_block_device)
    leftover = tmp_path / f".unfinished-{name}"
    (leftover / "new").mkdir(parents=True)
    then = time.time() - days * 86400
    for path in (leftover / "new", leftover):
        os.utime(path, (then, then))
    assert unfinished(tmp_path) == ([] if kept else [leftover])
    with staging(tmp_path / "bundle"):
        assert leftover.exists() == kept


@pytest.mark.parametrize(("days", "kept"), [(0, True), (2, False)])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, kept: bool) -> None:
    monkeypatch.setattr(staging_module, "try_lock", lambda _: Lock.UNSUPPORTED)
    with staging(tmp_path / "a") as other:
        then = time.time() - days * 86400
        for path in (other, other.parent):
            os.utime(path, (then, then))
        with staging(tmp_path / "b"):
            assert other.exists() == kept
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rival", ["deletes it", "holds its lock"])
def test_a_new_folder_that_another_process_takes_for_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rival: str
) -> None:
    """Between its creation and its lock."""
    mkdtemp: Callable[..., str] = tempfile.mkdtemp
    taken: list[int] = []

    def make(**options: Any) -> str:
        folder = mkdtemp(**options)
        if not taken:
            if rival == "deletes it":
                Path(folder).rmdir()
                taken.append(-1)
            else:
                taken.append(os.open(Path(folder) / "lock", os.O_CREAT | os.O_RDWR))
                assert try_lock(taken[0]) is Lock.HELD
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", make)
    with staging(tmp_path / "bundle") as folder:
        assert folder.is_dir()
        assert unfinished(tmp_path) == []
    if taken[0] >= 0:
        os.close(taken[0])
    assert len(unfinished(tmp_path)) == (rival == "holds its lock")


@pytest.mark.parametrize("name", ["lock", "target", "old", "new"])
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_hostile_leftovers_block_nothing(tmp_path: Path, name: str, kind: str) -> None:
    leftover, victim = tmp_path / "place" / ".unfinished-x", tmp_path / "victim"
    leftover.mkdir(parents=True)
    victim.mkdir()
    (victim / "mine").write_text("mine")
    (leftover / "old").mkdir()
    (leftover / "target").write_text("../victim/../stolen")
    path = leftover / name
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(victim)
    recover(leftover.parent / "bundle")
    unfinished(leftover.parent)
    with staging(leftover.parent / "bundle") as folder:
        assert folder.is_dir()
    assert [path.name for path in victim.iterdir()] == ["mine"]
    assert {path.name for path in tmp_path.iterdir()} <= {"victim", "place", "embedrt-home"}


def test_published_with_the_permissions_that_others_expect(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        with staging(tmp_path / "bundle") as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            publish(folder, tmp_path / "bundle")
        assert stat.S_IMODE((tmp_path / "bundle").stat().st_mode) == 0o750
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(previous)


@pytest.mark.parametrize("source", ["/proc", "a new file"])
def test_the_umask_is_found_without_changing_it(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that other threads make meanwhile would be private."""

    def forbidden(_: int) -> int:
        raise AssertionError("the umask is that of the whole process")

    def absent(*_: object, **__: object) -> str:
        raise FileNotFoundError

    previous = os.umask(0o026)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", forbidden)
            if source != "/proc":
                patched.setattr(Path, "read_text", absent)
            assert umask() == 0o026
    finally:
        os.umask(previous)


def test_everything_is_flushed_before_the_rename_and_the_rename_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut may not separate."""
    happened: list[str] = []
    fsync = os.fsync

    def flushed(descriptor: int) -> None:
        happened.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flushed)
    target = tmp_path / "bundle"
    with staging(target) as folder:
        (folder / "onnx").mkdir()
        for name in ("embedrt.json", "onnx/model.onnx"):
            (folder / name).write_text("x")
        publish(folder, target)
    before = {folder / "embedrt.json", folder / "onnx" / "model.onnx", folder / "onnx", folder}
    assert set(happened[:-1]) == {str(path) for path in before}
    assert happened[-1] == str(tmp_path)


def test_publish_onto_something_else_leaves_it(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "mine").write_text("mine")
    with staging(target) as folder:
        (folder / "x").write_text("")
        with pytest.raises(BundleError, match="exists and is not an intact bundle of the same model"):
            publish(folder, target)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (target / "mine").read_text() == "mine"


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ways to put one folder in the place of another."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    elif not sys.platform.startswith("linux"):
        pytest.skip("needs renameat2")
    return str(request.param)


def write(folder: Path, text: str) -> None:
    (folder / "onnx").mkdir(parents=True)
    for name in ("embedrt.json", "onnx/model.onnx"):
        (folder / name).write_text(text)


def read(folder: Path) -> str:
    """What a folder of `write` holds, which is whole."""
    texts = {(folder / name).read_text() for name in ("embedrt.json", "onnx/model.onnx")}
    assert sorted(path.name for path in folder.iterdir()) == ["embedrt.json", "onnx"]
    (text,) = texts
    return text


@pytest.mark.usefixtures("way")
def test_overwriting(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write(target, "old")
    with staging(target) as folder:
        folder.rmdir()
        write(folder, "new")
        publish(folder, target, overwrite=True)
        assert read(target) == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_failure_while_overwriting_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    target = tmp_path / "bundle"
    write(target, "old")
    rename = Path.rename

    def fail(path: Path, to: Path) -> Path:
        if path.name == "new":
            raise OSError("the disk went away")
        return rename(path, to)

    with staging(target) as folder:
        (folder / "x").write_text("")
        monkeypatch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="the disk went away"):
            publish(folder, target, overwrite=True)
        assert read(target) == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.usefixtures("way")
def test_interrupted_while_overwriting_keeps_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "bundle"
    write(target, "old")

    rename = Path.rename

    def interrupted(path: Path, to: Path | None = None) -> Path:
        if to is not None and path.name != "new":
            return rename(path, to)
        raise KeyboardInterrupt

    def attempt() -> None:
        with staging(target) as folder:
            folder.rmdir()
            write(folder, "new")
            with monkeypatch.context() as patched:
                patched.setattr(atomic, "flush", interrupted)
                patched.setattr(staging_module, "put_back", interrupted)
                patched.setattr(Path, "rename", interrupted)
                publish(folder, target, overwrite=True)

    with pytest.raises(KeyboardInterrupt):
        attempt()
    assert read(target) in {"old", "new"}
    assert list(tmp_path.iterdir()) == [target]


def test_exchanging_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "b")


# Forks, so that hundreds of attempts take seconds. Each is killed before another event that touches the disk.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from embedrt.bundle import atomic
from embedrt.bundle.opened import BundleFiles
from embedrt.bundle.staging import recover, staging, unfinished
from tests.faults.test_staging import read, write

parent, way = Path(sys.argv[1]), sys.argv[2]
target, seen, last = parent / "bundle", [], 0
if way == "two renames":
    atomic.exchange = lambda *_: False

def watch(event, arguments):
    if event.partition(".")[0] in {"open", "os", "shutil", "tempfile", "ctypes"} and armed:
        seen.append(event)
        if len(seen) == last:
            os.kill(os.getpid(), signal.SIGKILL)

armed = False
sys.addaudithook(watch)
write(target, "old")
found, gaps = {"old": 0, "new": 0}, 0
while True:
    last += 1
    child = os.fork()
    if child == 0:
        armed = True
        with staging(target) as folder:
            folder.rmdir()
            write(folder, "new")
            atomic.publish(folder, target, overwrite=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not target.exists():
        assert way == "two renames", last
        gaps += 1
        if last % 2:
            recover(target)
    with staging(parent / "other"):
        pass
    assert [path.name for path in parent.iterdir()] == ["bundle"], last
    found[read(target)] += 1
    if status == 0:
        break
    shutil.rmtree(target)
    write(target, "old")
print(last, found["old"], found["new"], gaps)
"""


@pytest.mark.subprocess
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
@pytest.mark.parametrize("mode", ["exchange", "two renames"])
def test_killed_at_any_step_of_an_overwrite(tmp_path: Path, mode: str) -> None:
    parent = tmp_path / "place"
    parent.mkdir()
    command = [sys.executable, "-c", KILLED, str(parent), mode, str(Path(__file__).parents[2])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    steps, old, new, gaps = map(int, done.stdout.split())
    assert steps > 30
    assert min(old, new) > 3
    assert gaps == (1 if mode == "two renames" else 0)
    assert read(parent / "bundle") == "new"


def test_a_swap_in_progress_is_waited_for(tmp_path: Path) -> None:
    """A loader comes between the two renames of another process, which go on as soon as it has looked."""
    target = tmp_path / "bundle"
    write(target, "old")
    with staging(target) as folder:
        folder.rmdir()
        write(folder, "new")
        set_aside(target, folder.parent)
        assert not target.exists()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(recover, target)
            folder.rename(target)
            waiting.result()
        assert read(target) == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_swap_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_module, "_SWAP_SECONDS", 0.0)
    target = tmp_path / "bundle"
    write(target, "old")
    with staging(target) as folder:
        set_aside(target, folder.parent)
        recover(target)
        assert not target.exists()
    assert read(target) == "old"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a folder is kept by its descriptor")
def test_a_deleted_bundle_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the one that it replaced is still there, as a model uses it."""
    monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    target = tmp_path / "bundle"
    write(target, "old")
    files = BundleFiles.open(target)
    with staging(target) as folder:
        folder.rmdir()
        write(folder, "new")
        publish(folder, target, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 2
    shutil.rmtree(target)
    recover(target)
    with staging(target):
        assert not target.exists()
    files.close()
    with staging(target):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_missing_target_is_none_of_a_leftovers_business(tmp_path: Path) -> None:
    write(tmp_path / "bundle", "old")
    with staging(tmp_path / "bundle") as folder:
        set_aside(tmp_path / "bundle", folder.parent)
        recover(tmp_path / "another")
        assert [path.name for path in tmp_path.iterdir()] == [folder.parent.name]
    assert read(tmp_path / "bundle") == "old"


SIGNALED = """
import signal, sys
from embedrt_export import pipeline
from embedrt.cli.main import main
def end(*_):
    signal.raise_signal(getattr(signal, sys.argv[1]))
pipeline.write_manifest = end
sys.exit(main(["export", *sys.argv[2:]]))
"""


@pytest.mark.subprocess
@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_an_export_that_is_told_to_end_leaves_nothing(
    tiny_source: Path, tmp_path: Path, name: str, status: int
) -> None:
    parent = tmp_path / "place"
    command = [sys.executable, "-c", SIGNALED, name, str(tiny_source), "-o", str(parent / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, list(parent.iterdir())) == (status, []), done.stderr
    assert "Traceback" not in done.stderr
