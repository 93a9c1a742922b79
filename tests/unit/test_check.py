"""Verification of a bundle's files: hashed once a machine until they change, always, or never."""

import os
import time
from io import BufferedReader
from pathlib import Path

import pytest

from embedrt import BundleError
from embedrt.bundle import check
from embedrt.bundle.check import VERIFIED, Verify
from embedrt.bundle.manifest import read_bundle, read_manifest
from tests.kit.bundles import copy_bundle


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that was written an hour ago."""
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    then = time.time() - 3600
    for path in folder.rglob("*"):
        os.utime(path, (then, then))
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files as they are hashed."""
    names: list[str] = []
    digest_of = check.digest_of

    def note(file: BufferedReader) -> str:
        names.append(Path(file.name).name)
        return digest_of(file)

    monkeypatch.setattr(check, "digest_of", note)
    return names


def damage(path: Path) -> None:
    """Changes one bit and keeps the modification time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_files_are_hashed_once(bundle: Path, hashed: list[str]) -> None:
    files = read_manifest(bundle).files
    assert read_bundle(bundle) == read_bundle(bundle)
    assert len(hashed) == len(files)


def test_always_and_never(bundle: Path, hashed: list[str], own_store: Path) -> None:
    count = len(read_manifest(bundle).files)
    read_bundle(bundle, "never")
    assert hashed == []
    read_bundle(bundle, "always")
    read_bundle(bundle, "always")
    assert len(hashed) == 2 * count
    assert not (own_store / VERIFIED).exists()


def test_never_still_finds_files_of_another_size(bundle: Path) -> None:
    (bundle / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json: expected \d+ bytes, got 2;"):
        read_bundle(bundle, "never")


def test_a_changed_file_is_hashed_again(bundle: Path, hashed: list[str]) -> None:
    read_bundle(bundle)
    hashed.clear()
    then = time.time() - 1800
    os.utime(bundle / "tokenizer.json", (then, then))
    read_bundle(bundle)
    assert hashed == ["tokenizer.json"]
    content = bytearray((bundle / "config.json").read_bytes())
    content[0] ^= 1
    (bundle / "config.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"config\.json: expected SHA-256"):
        read_bundle(bundle)


def test_another_file_in_its_place_is_hashed_again(bundle: Path) -> None:
    read_bundle(bundle)
    path = bundle / "tokenizer.json"
    status, other = path.stat(), bundle / "other"
    other.write_bytes(bytes(status.st_size))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    with pytest.raises(BundleError, match=r"tokenizer\.json: expected SHA-256"):
        read_bundle(bundle)


def test_what_once_trusts_always_finds(bundle: Path) -> None:
    """A disk that changes a bit without a trace in the folder: the limit of "once"."""
    read_bundle(bundle)
    damage(bundle / "tokenizer.json")
    read_bundle(bundle)
    with pytest.raises(BundleError, match=r"tokenizer\.json: expected SHA-256"):
        read_bundle(bundle, "always")


def test_a_file_that_was_just_written_is_not_remembered(tiny_bundle: Path, tmp_path: Path, hashed: list[str]) -> None:
    """Its time may not change when it is written once more."""
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    for path in folder.rglob("*"):
        os.utime(path)
    for _ in range(2):
        read_bundle(folder)
    assert len(hashed) == 2 * len(read_manifest(folder).files)


def test_another_manifest_is_not_satisfied_by_what_was_verified(bundle: Path) -> None:
    manifest = read_bundle(bundle)
    record = manifest.files["tokenizer.json"]
    with pytest.raises(BundleError, match=r"tokenizer\.json: expected SHA-256"):
        check.check_files(bundle, {"tokenizer.json": check.FileRecord(record.size, "0" * 64)}, "once")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"files": {"x": 1}}', b"\xff"])
def test_a_damaged_memory_only_means_hashing_again(
    bundle: Path, own_store: Path, hashed: list[str], content: bytes
) -> None:
    own_store.mkdir()
    (own_store / VERIFIED).write_bytes(content)
    read_bundle(bundle)
    count = len(hashed)
    read_bundle(bundle)
    assert len(hashed) == count == len(read_manifest(bundle).files)


def test_a_memory_that_cannot_be_written_only_means_hashing_again(
    bundle: Path, own_store: Path, hashed: list[str]
) -> None:
    own_store.write_text("a file where the folder should be")
    for _ in range(2):
        read_bundle(bundle)
    assert len(hashed) == 2 * len(read_manifest(bundle).files)


def test_the_memory_is_bounded(bundle: Path, own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_MAX_ENTRIES", 3)
    read_bundle(bundle)
    assert len(check._read_cache()) == 3
    assert [path.name for path in own_store.iterdir()] == [VERIFIED]


@pytest.mark.parametrize("verify", ["twice", True, None])
def test_an_unknown_mode(bundle: Path, verify: Verify) -> None:
    with pytest.raises(ValueError, match="verify: expected one of 'once', 'always', 'never', got "):
        read_bundle(bundle, verify)
