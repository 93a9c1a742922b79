"""CUDA on this machine: wheels, driver, cards and libraries, and the line that mends each way in which CUDA is missing.

`gather` collects the facts by ctypes, so that it works where nothing is installed; the rest are pure functions of them.
"""

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

from embedrt.engine.session import onnxruntime

logger = logging.getLogger("embedrt")

PROVIDER = "CUDAExecutionProvider"
CPU_WHEEL, GPU_WHEEL = "onnxruntime", "onnxruntime-gpu"
INSTALL = "pip install 'embedrt[gpu]'"
DRIVER = "R580"
"""The oldest driver branch for CUDA 13."""

_IS_WINDOWS = sys.platform == "win32"
_OLDEST = 1, 31  # release of the GPU wheel
_CUDA_MAJOR = 13
_DRIVER_LIBRARY = "nvcuda.dll" if _IS_WINDOWS else "libcuda.so.1"
# Compute capabilities that the GPU wheel has machine code for. Such code also runs on later minor versions of the same
# major version; the wheel has no PTX, from which the driver could make code for others.
_WHEEL = "1.31."
_COMPILED = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0))
_AMPERE = (8, 0)
_PRELOADING = threading.RLock()
_known: list["Facts"] = []  # one at most
# Results of cuInit.
_NO_DEVICE, _DRIVER_MISMATCH = 100, 803
# Keys of cuDeviceGetAttribute.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Library:
    """A library of the CUDA toolkit.

    Attributes:
        linux: Its file name on Linux.
        windows: Its file name on Windows.
        package: The package that has it.
        requirement: The versions of the package, for pip.
    """

    linux: str
    windows: str
    package: str
    requirement: str

    @property
    def name(self) -> str:
        """Its file name on this platform."""
        return self.windows if _IS_WINDOWS else self.linux


LIBRARIES = (
    Library("libcudart.so.13", "cudart64_13.dll", "nvidia-cuda-runtime", "~=13.0"),
    Library("libcublasLt.so.13", "cublasLt64_13.dll", "nvidia-cublas", "~=13.0"),
    Library("libcublas.so.13", "cublas64_13.dll", "nvidia-cublas", "~=13.0"),
    Library("libcurand.so.10", "curand64_10.dll", "nvidia-curand", "~=10.4"),
)
"""The libraries that the CUDA provider is linked with."""
CUDNN = Library("libcudnn.so.9", "cudnn64_9.dll", "nvidia-cudnn-cu13", "~=9.12")
"""Loaded by some operators when they first run, such as the reductions of the padded float32 graphs."""


@dataclass(frozen=True)
class Card:
    """A GPU that this process sees.

    Attributes:
        name: The product name.
        capability: The compute capability, such as (9, 0).
        memory: Bytes of memory.
    """

    name: str
    capability: tuple[int, int]
    memory: int

    @property
    def is_compiled(self) -> bool:
        """True if the GPU wheel has code for the card."""
        return any(self.capability[0] == major and self.capability[1] >= minor for major, minor in _COMPILED)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that the card computes."""
        return ("float32", "tf32", "float16", "bfloat16") if self.capability >= _AMPERE else ("float32", "float16")

    @property
    def attention(self) -> str:
        """The attention kernels of packed graphs on the card."""
        if not self.is_compiled:
            return "none"
        return "flash and memory-efficient" if self.capability >= _AMPERE else "memory-efficient"

    def __str__(self) -> str:
        major, minor = self.capability
        return f"{self.name}, compute capability {major}.{minor}, {self.memory / 2**30:.0f} GiB"


@dataclass(frozen=True)
class Facts:
    """CUDA as this process finds it.

    Attributes:
        wheels: Versions of the installed wheels of ONNX Runtime by name.
        version: The version of the module onnxruntime; None if it is missing.
        providers: Its execution providers.
        platform: The platform, as `sys.platform` has it.
        driver: True if the driver's library can be loaded.
        driver_cuda: The newest CUDA version that the driver supports, as 1000 x major + 10 x minor; None if unknown.
        initialized: The result of `cuInit`, 0 for success; None if unknown.
        cards: The GPUs; None if unknown.
        visible: `CUDA_VISIBLE_DEVICES`; None if it is not set.
        libraries: Paths of the toolkit's libraries by file name, None for a missing one; empty if not looked for.
    """

    wheels: Mapping[str, str]
    version: str | None
    providers: tuple[str, ...]
    platform: str
    driver: bool
    driver_cuda: int | None
    initialized: int | None
    cards: tuple[Card, ...] | None
    visible: str | None
    libraries: Mapping[str, str | None]


def problem(facts: Facts, index: int = 0) -> str | None:
    """The first thing that keeps CUDA from working on a card, with its remedy; None if there is none.

    Args:
        facts: The facts.
        index: The card.
    """
    return wheel_problem(facts) or driver_problem(facts) or card_problem(facts, index) or _library_problem(facts)


def wheel_problem(facts: Facts) -> str | None:
    """The problem of the installed wheels; None if there is none."""
    if facts.platform not in {"linux", "win32"}:
        return f"CUDA needs Linux or Windows, got {facts.platform}"
    has_provider = PROVIDER in facts.providers
    if {CPU_WHEEL, GPU_WHEEL} <= facts.wheels.keys() and not (
        has_provider and facts.wheels[GPU_WHEEL] == facts.version
    ):
        return (
            f"{CPU_WHEEL} {facts.wheels[CPU_WHEEL]} and {GPU_WHEEL} {facts.wheels[GPU_WHEEL]} overwrite each other's "
            f"files; run `pip uninstall -y {CPU_WHEEL} {GPU_WHEEL}`, then `{INSTALL}`"
        )
    if has_provider and facts.version and _release(facts.version) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return (
            f"{GPU_WHEEL} {facts.version} is too old: before {oldest}, norms of float16 models add up in float16, "
            f"which overflows; run `{INSTALL}`"
        )
    if has_provider:
        return None
    return (
        f"the installed {CPU_WHEEL} {facts.version} has no {PROVIDER}; run `pip uninstall -y {CPU_WHEEL}`, then "
        f"`{INSTALL}`"
    )


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, such as (1, 31)."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def driver_problem(facts: Facts) -> str | None:
    """The problem of the driver; None if there is none."""
    if not facts.driver:
        return (
            f"no NVIDIA driver: {_DRIVER_LIBRARY} cannot be loaded; install driver {DRIVER} or later, and start a "
            "container with `--gpus all`"
        )
    if facts.driver_cuda is not None and facts.driver_cuda < 1000 * _CUDA_MAJOR:
        return (
            f"the NVIDIA driver supports CUDA {facts.driver_cuda // 1000}.{facts.driver_cuda % 1000 // 10}, but "
            f"{GPU_WHEEL} {facts.version} needs CUDA {_CUDA_MAJOR}; install driver {DRIVER} or later"
        )
    if facts.initialized == _NO_DEVICE or (not facts.initialized and facts.cards == ()):
        return _hidden(facts.visible)
    if facts.initialized == _DRIVER_MISMATCH:
        return f"{_DRIVER_LIBRARY} and the kernel module of the NVIDIA driver differ in version; restart the machine"
    if facts.initialized:
        return f"the NVIDIA driver fails with error {facts.initialized} of cuInit; check `nvidia-smi`"
    return None


def _hidden(visible: str | None) -> str:
    """The problem of a driver without a GPU."""
    if visible is None:
        return "the NVIDIA driver finds no GPU; check `nvidia-smi`, and start a container with `--gpus all`"
    return f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU; unset it, or list GPUs, as in CUDA_VISIBLE_DEVICES=0"


def card_problem(facts: Facts, index: int) -> str | None:
    """The problem of a card; None if there is none, or if cards are not known."""
    if facts.cards is None:
        return None
    if index >= len(facts.cards):
        known = ", ".join(f"cuda:{i} ({card.name})" for i, card in enumerate(facts.cards))
        visible = "" if facts.visible is None else f" by CUDA_VISIBLE_DEVICES={facts.visible!r}"
        return f"expected a GPU that this process sees{visible}: {known}, got cuda:{index}"
    card = facts.cards[index]
    if (facts.version or "").startswith(_WHEEL) and not card.is_compiled:
        compiled = ", ".join(f"{major}.{minor}" for major, minor in _COMPILED)
        return (
            f"{GPU_WHEEL} {facts.version} has no code for {card.name}, compute capability "
            f"{card.capability[0]}.{card.capability[1]}, only for {compiled} and later minor versions; use another GPU"
        )
    return None


def _library_problem(facts: Facts) -> str | None:
    missing = [library for library in LIBRARIES if facts.libraries.get(library.name, "") is None]
    if not missing:
        return None
    return f"{', '.join(library.name for library in missing)} cannot be loaded; {install(*missing)}"


def install(*libraries: Library) -> str:
    """The line that installs libraries of the toolkit."""
    packages = dict.fromkeys(f"'{library.package}{library.requirement}'" for library in libraries)
    return f"run `pip install {' '.join(packages)}`"


def dtype_problem(facts: Facts, index: int, dtype: str) -> str | None:
    """The reason why a card does not compute in a dtype, with the remedy; None if it does, or is not known."""
    if facts.cards is None or index >= len(facts.cards) or dtype in facts.cards[index].dtypes:
        return None
    card = facts.cards[index]
    return f"{card} does not compute in {dtype}, only in {', '.join(card.dtypes)}; use one of these dtypes"


REMEDIES = {
    "cuDNN is unavailable": install(CUDNN),
    "no kernel image is available": f"{GPU_WHEEL} has no code for this GPU: `embedrt doctor` shows which GPUs it has",
}
"""Messages of the CUDA provider by pattern, each with what mends the failure."""


def cards() -> tuple[Card, ...]:
    """The GPUs that this process sees; none without a driver."""
    return _driver()["cards"] or ()


def card(index: int) -> Card | None:
    """A card by its index; None if this process does not see it, or if cards are not known."""
    found = cards()
    return found[index] if index < len(found) else None


def facts() -> Facts:
    """The facts of this process, gathered until there is no problem: the program may load a library meanwhile."""
    if not _known or problem(_known[-1]) is not None:
        _known[:] = [gather()]
    return _known[-1]


def gather() -> Facts:
    """Collect the facts; where the GPU wheel is installed, load the libraries that its CUDA provider needs.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
    """
    module = onnxruntime()
    providers = tuple(module.get_available_providers())
    has_provider = PROVIDER in providers
    if has_provider:
        preload(module)
    wheels = {name: found for name in (CPU_WHEEL, GPU_WHEEL) if (found := installed(name)) is not None}
    return Facts(
        wheels=wheels,
        version=module.__version__,
        providers=providers,
        platform=sys.platform,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        libraries=loaded_libraries() if has_provider and _is_for_cuda_13(module) else {},
        **_driver(),
    )


def installed(package: str) -> str | None:
    """The version of an installed package, or None."""
    from importlib.metadata import PackageNotFoundError, version  # takes a while to import

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def loaded_libraries() -> dict[str, str | None]:
    """Paths of the toolkit's libraries that this process has loaded, by file name; None for the others."""
    return {library.name: _loaded_from(library.name) for library in (*LIBRARIES, CUDNN)}


def preload(module: ModuleType) -> None:
    """Load the libraries of the CUDA provider from their packages, unless the program has loaded them.

    ONNX Runtime's own function prints what it does not find. That goes to the log; `problem` has the remedy.
    """
    with _PRELOADING:  # also because threads must not replace the standard output across each other
        if all(_loaded_from(library.name) for library in LIBRARIES):
            return
        with _captured() as printed:
            module.preload_dlls()
    if text := printed.getvalue().strip():
        logger.debug("onnxruntime.preload_dlls: %s", text)


@contextmanager
def _captured() -> Iterator[StringIO]:
    """Keep what this thread prints; what other threads print passes."""
    printed = StringIO()
    with redirect_stdout(_ByThread(printed, sys.stdout)):
        yield printed


class _ByThread:
    """A standard output that keeps what one thread writes."""

    def __init__(self, kept: StringIO, passed: Any) -> None:
        self._kept = kept
        self._passed = passed
        self._thread = threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kept if threading.get_ident() == self._thread else self._passed, name)


def _is_for_cuda_13(module: ModuleType) -> bool:
    """Decide by the CUDA version that the wheel was built with, if it has one."""
    built = str(getattr(module, "cuda_version", "") or _CUDA_MAJOR)
    return built.partition(".")[0] == str(_CUDA_MAJOR)


def _driver() -> dict[str, Any]:
    """The facts that the driver's library has, as arguments of `Facts`."""
    found: dict[str, Any] = {"driver": False, "driver_cuda": None, "initialized": None, "cards": None}
    try:
        library = ctypes.CDLL(_DRIVER_LIBRARY)
    except OSError:
        return found
    found["driver"] = True
    try:
        newest, count = ctypes.c_int(0), ctypes.c_int(0)
        if library.cuDriverGetVersion(ctypes.byref(newest)) == 0:
            found["driver_cuda"] = newest.value
        found["initialized"] = library.cuInit(0)
        if found["initialized"] == 0 and library.cuDeviceGetCount(ctypes.byref(count)) == 0:
            found["cards"] = tuple(_card(library, index) for index in range(count.value))
    except AttributeError:  # not a driver, but a part of one, as in tests of placement
        pass
    return found


def _card(library: ctypes.CDLL, index: int) -> Card:
    device, name, memory = ctypes.c_int(0), ctypes.create_string_buffer(256), ctypes.c_size_t(0)
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)

    def attribute(key: int) -> int:
        value = ctypes.c_int(0)
        library.cuDeviceGetAttribute(ctypes.byref(value), key, device)
        return value.value

    capability = attribute(_CAPABILITY_MAJOR), attribute(_CAPABILITY_MINOR)
    return Card(name.value.decode(errors="replace"), capability, memory.value)


def _loaded_from(name: str) -> str | None:
    """The path of a library that this process has loaded, or None."""
    if sys.platform == "win32":
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetModuleHandleW.restype = ctypes.c_void_p
        handle, path = kernel.GetModuleHandleW(name), ctypes.create_unicode_buffer(1024)
        if not handle:
            return None
        kernel.GetModuleFileNameW(ctypes.c_void_p(handle), path, len(path))
        return path.value
    try:
        mapped = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    paths = [line[line.index("/") :] for line in mapped if "/" in line]
    # A file of the toolkit's own installer has more numbers in its name.
    return next((path for path in paths if f"{Path(path).name}.".startswith(f"{name}.")), None)
