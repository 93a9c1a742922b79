"""Folders that are expensive to make: once in a test run, for all of its worker processes.

EMBEDRT_SHARED_FOLDERS names a place for them, so that several runs with the same packages share them too.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.kit.cores import one_core


def shared_folder(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Let one worker process make a folder, while the others wait for it.

    Args:
        factory: Of this process; the parent of its folder is the same in all workers.
        name: The folder's path, below one that is the run's.
        make: Makes the folder. Tests only read what it writes.
    """
    base = factory.getbasetemp()
    own = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder = Path(os.environ.get("EMBEDRT_SHARED_FOLDERS", own)) / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    complete = folder.with_name(f"{folder.name}.complete")
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not complete.exists():
            with one_core():
                make(folder)
            complete.touch()
    return folder
