"""Bundles that are sent to workers: unpacked whole, once a machine."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from embedrt.bulk.engines import shipping
from embedrt.bundle.staging import staging

FILES = {"embedrt.json": "{}", "onnx/model.onnx": "weights"}


@pytest.fixture
def archive(tmp_path: Path, own_store: Path) -> bytes:
    """The archive of a folder; the local store is empty."""
    del own_store
    for name, content in FILES.items():
        (tmp_path / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundle" / name).write_text(content)
    return shipping.packed(tmp_path / "bundle")


def files_of(folder: Path) -> dict[str, str]:
    """The files of a folder, with their content."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_is_unpacked_once(archive: bytes) -> None:
    folder = shipping.unpacked(archive)
    before = folder.stat()
    assert shipping.unpacked(memoryview(archive)) == folder
    assert folder.stat() == before
    assert files_of(folder) == FILES


def test_workers_that_unpack_at_the_same_time(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    everyone = threading.Barrier(3)

    @contextmanager
    def together(target: Path) -> Iterator[Path]:
        with staging(target) as folder:
            everyone.wait()  # all of them found nothing in place
            yield folder

    monkeypatch.setattr(shipping, "staging", together)
    with ThreadPoolExecutor(3) as workers:
        (folder,) = set(workers.map(shipping.unpacked, [archive] * 3))
    assert files_of(folder) == FILES
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
