"""The hook by which an environment variable makes every process of a Python environment take embedrt's module."""

import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from embedrt.compat.module import FOLDER
from embedrt.errors import CompatError

VARIABLE = "EMBEDRT_AS_SENTENCE_TRANSFORMERS"
_NAME = "embedrt_as_sentence_transformers.pth"
# Python runs the line at every start: it imports nothing that is not loaded then, and never fails.
_LINE = (
    "import os, sys; os.environ.get({variable!r}) == '1' and not sys.flags.ignore_environment "
    "and sys.path.insert(0, {folder!r})\n"
)


@dataclass(frozen=True)
class State:
    """The state of the hook.

    Attributes:
        file: The place of the hook in this Python environment.
        is_there: True if the file exists.
        is_current: True if the file leads to this installation of embedrt.
        is_set: True if the environment variable is set for this process.
    """

    file: Path
    is_there: bool
    is_current: bool
    is_set: bool


def state() -> State:
    """The state of the hook in this environment."""
    file = _file()
    content = file.read_text(encoding="utf-8") if file.is_file() else None
    return State(file, content is not None, content == _line(), os.environ.get(VARIABLE) == "1")


def write() -> Path:
    """Write the hook into the environment of this interpreter.

    Returns:
        The file.

    Raises:
        CompatError: The folder cannot be written.
    """
    file = _file()
    try:
        written = file.with_suffix(f".{os.getpid()}")  # Python never reads half of it
        written.write_text(_line(), encoding="utf-8")
        written.replace(file)
    except OSError as error:
        raise CompatError(
            f"{file}: cannot be written: {error.strerror}; without the hook, `PYTHONPATH={FOLDER}` has the same effect"
        ) from error
    return file


def remove() -> Path | None:
    """Remove the hook.

    Returns:
        The file that was there; None if there was none.

    Raises:
        CompatError: The file cannot be removed.
    """
    file = _file()
    try:
        file.unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CompatError(f"{file}: cannot be removed: {error.strerror}") from error
    return file


def _file() -> Path:
    return Path(sysconfig.get_path("purelib"), _NAME)


def _line() -> str:
    return _LINE.format(variable=VARIABLE, folder=str(FOLDER))
