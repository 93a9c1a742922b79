"""How a bundle comes to its place: staged beside it, moved in one step, and cleaned up after killed processes."""

import os
import stat
from pathlib import Path

import pytest

from embedrt import BundleError
from embedrt.bundle.atomic import publish, staging, umask, unfinished


def test_staging_beside_the_target_and_nothing_left(tmp_path: Path) -> None:
    def fail() -> None:
        with staging(tmp_path / "a" / "b") as folder:
            assert folder.parent == tmp_path / "a"
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


def test_stale_folders_are_those_of_yesterday(tmp_path: Path) -> None:
    old, young, other = tmp_path / ".unfinished-old", tmp_path / ".unfinished-young", tmp_path / "bundle"
    for folder in (old, young, other):
        folder.mkdir()
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    assert unfinished(tmp_path) == [old]
    with staging(tmp_path / "new"):
        assert not old.exists()
    assert sorted(tmp_path.iterdir()) == [young, other]


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


def test_failure_while_overwriting_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "mine").write_text("mine")
    rename = Path.rename

    def fail(path: Path, to: Path) -> Path:
        if to == target and (path / "new").exists():
            raise OSError("the disk went away")
        return rename(path, to)

    with staging(target) as folder:
        (folder / "new").write_text("")
        monkeypatch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="the disk went away"):
            publish(folder, target, overwrite=True)
    assert (target / "mine").read_text() == "mine"
