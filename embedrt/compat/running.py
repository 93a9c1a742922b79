"""Programs that run with the module `sentence_transformers` of embedrt."""

import os
import runpy
import sys
from pathlib import Path
from types import TracebackType

from embedrt.compat.module import FOLDER, install

# Frames above the program's own.
_OUTER = {"<frozen runpy>", runpy.__file__, __file__, str(Path(__file__).with_name("__main__.py"))}


def run_module(name: str, arguments: list[str]) -> None:
    """Run a module as `python -m` does.

    Args:
        name: The module.
        arguments: The arguments after its name.
    """
    _prepare(name, arguments)
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def run_script(path: str, arguments: list[str]) -> None:
    """Run a script as `python` does.

    Args:
        path: The script, or a folder or zip file with a `__main__.py`.
        arguments: The arguments after it.
    """
    _prepare(path, arguments)
    if not sys.flags.safe_path:  # it is the folder of `python -m`: the working folder
        sys.path[0] = str(Path(path).resolve().parent)
    runpy.run_path(path, run_name="__main__")


def _prepare(program: str, arguments: list[str]) -> None:
    install()
    # Processes that the program starts have the module too.
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(FOLDER) if not inherited else f"{FOLDER}{os.pathsep}{inherited}"
    sys.argv[:] = [program, *arguments]
    sys.excepthook = _show


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an exception of the program without the frames of its start."""
    while trace is not None and trace.tb_frame.f_code.co_filename in _OUTER:
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)
