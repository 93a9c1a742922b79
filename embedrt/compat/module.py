"""The module `sentence_transformers` that stands in for the package of that name."""

import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from embedrt.compat.names import NAME, PROVIDED, VERSION, instead
from embedrt.errors import CompatError

FOLDER = Path(__file__).parent / "on_path"
"""The folder with a file of the module's name: a process that has it on its path imports embedrt's module."""
_FILE = FOLDER / f"{NAME}.py"


def install() -> ModuleType:
    """Make `import sentence_transformers` give a module that is made of embedrt, in this process.

    Call it before anything imports sentence-transformers. Further calls change nothing. Processes that
    `multiprocessing` or joblib start have the module too.

    Returns:
        The module.

    Raises:
        CompatError: sentence-transformers itself is loaded already.

    Example:
        >>> embedrt.compat.install()
        >>> from sentence_transformers import SentenceTransformer
        >>> SentenceTransformer("all-MiniLM-L6-v2").encode("The cat sat.").shape
        (384,)
    """
    loaded = sys.modules.get(NAME)
    if loaded is not None and not isinstance(loaded, StandIn):
        place = getattr(loaded, "__file__", None) or "an unknown place"
        raise CompatError(
            f"expected a process without sentence-transformers, got one that has loaded it from {place}; call "
            "embedrt.compat.install() before the first import of it, or of a package that imports it"
        )
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    if str(FOLDER) not in sys.path:  # processes that are started with this path have the module too
        sys.path.insert(min(1, len(sys.path)), str(FOLDER))
    return import_module(NAME)


def is_active() -> bool:
    """Return True if `import sentence_transformers` gives embedrt's module in this process."""
    try:
        spec = find_spec(NAME)
    except ValueError:  # a module that was made by hand
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == _FILE.resolve()


def real_environment() -> dict[str, str]:
    """The environment variables of this process, for a process that is to import sentence-transformers itself."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [entry for entry in entries if Path(entry).resolve() != FOLDER.resolve()]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "EMBEDRT_AS_SENTENCE_TRANSFORMERS": "0"}


class StandIn(ModuleType):
    """A module whose names come from embedrt, on first use."""

    def __getattr__(self, name: str) -> Any:
        place = PROVIDED[self.__name__].get(name)
        if place is not None:
            module, _, attribute = place.partition(":")
            found = getattr(import_module(module), attribute)
            self.__dict__[name] = found
            return found
        whole = f"{self.__name__}.{name}"
        if whole in PROVIDED:
            return import_module(whole)
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        raise AttributeError(_absent(whole), name=name, obj=self)

    def __setattr__(self, name: str, value: object) -> None:
        # After `import sentence_transformers.SentenceTransformer`, Python would put that module where the class is.
        if not (isinstance(value, StandIn) and name in PROVIDED[self.__name__]):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *PROVIDED[self.__name__]})


class _Finder:
    """The entry of `sys.meta_path` for the module and its submodules."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module of the package.

        Raises:
            CompatError: embedrt has nothing of that name; the message names the alternative.
        """
        del path, target
        if fullname.partition(".")[0] != NAME:
            return None
        if fullname not in PROVIDED:
            raise CompatError(_absent(fullname), name=fullname)
        spec = ModuleSpec(fullname, _Loader, origin=str(_FILE), is_package=True)  # type: ignore[arg-type]
        spec.has_location = True
        return spec


class _Loader:
    """The loader of these modules."""

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        """Make a module."""
        return StandIn(spec.name, "Made of embedrt, with the names that sentence-transformers has.")

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Fill a module."""
        names: Mapping[str, str] = PROVIDED[module.__name__]
        module.__dict__["__all__"] = sorted(names)
        if module.__name__ == NAME:
            module.__dict__["__version__"] = VERSION


def _absent(name: str) -> str:
    """A message about a dotted name that embedrt lacks."""
    module, _, attribute = name.rpartition(".")
    head = f"{name}: embedrt stands in for sentence-transformers here (embedrt.compat), and does not have it"
    remedy = instead(name.removeprefix(f"{NAME}."))
    if remedy is not None:
        return f"{head}; {remedy}"
    known = sorted(PROVIDED.get(module, PROVIDED[NAME]))
    near = get_close_matches(attribute, known)
    return f"{head}; " + (f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}")
