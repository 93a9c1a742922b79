"""Other CPUs than the one of this machine, and Python processes on them.

An older x86-64 CPU at full speed: a preloaded library hides features from the process (older_cpu.c). Where CPUID cannot
fault, qemu-user emulates the two oldest. An Arm core: qemu-user over the root that tests/arm64/install.sh makes.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARY = Path(__file__).with_name("older_cpu.c")
# Its exit status where a process cannot have the CPU that it asked for.
UNAVAILABLE = 77
_SECONDS = 1800


class UnavailableError(Exception):
    """This machine cannot run the CPU; the message has the reason."""


@dataclass(frozen=True)
class Cpu:
    """A CPU that processes can run on.

    Attributes:
        name: Its name, as `OLDER_CPU` or qemu has it.
        features: Some features that numpy must find.
        hidden: Some features that numpy must not find.
        is_exact: True if ONNX Runtime's fastest int8 kernels are exact there.
        command: The command that starts Python.
        environment: Variables that its processes need.
        is_emulated: True if it runs at a small fraction of the machine's speed.
    """

    name: str
    features: tuple[str, ...]
    hidden: tuple[str, ...]
    is_exact: bool
    command: tuple[str, ...] = (sys.executable,)
    environment: Mapping[str, str] = field(default_factory=dict)
    is_emulated: bool = False

    def run(self, *arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run Python with arguments on the CPU, from the root of the repository, with a text as standard input."""
        return subprocess.run(
            [*self.command, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **self.environment},
            input=text,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )

    def output(self, *arguments: str | Path, text: str = "") -> str:
        """Run Python like `run`, and return what it prints; it must succeed."""
        done = self.run(*arguments, text=text)
        assert done.returncode == 0, f"{self.name}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


HERE = Cpu("this CPU", (), (), is_exact=True)
_AVX512 = ("AVX512F", "AVX512BW", "AVX512VL")
OLDER = {
    cpu.name: cpu
    for cpu in (
        Cpu("sse4", ("SSE42",), ("AVX", "FMA3"), is_exact=True),
        Cpu("avx2", ("AVX2", "FMA3"), ("AVX512F",), is_exact=False),
        Cpu("avx-vnni", ("AVX2", "FMA3"), ("AVX512F",), is_exact=True),
        Cpu("avx512", _AVX512, ("AVX512VNNI", "AVX512FP16"), is_exact=False),
        Cpu("vnni", (*_AVX512, "AVX512VNNI"), ("AVX512FP16",), is_exact=True),
    )
}
# What this machine must have itself, by the names of /proc/cpuinfo.
_NEEDS = {"avx2": "avx2", "avx-vnni": "avx_vnni", "avx512": "avx512vl", "vnni": "avx512_vnni"}
# qemu-user has no AVX-512 and no VNNI, nor these features of a Haswell, and warns of each.
_EMULATED_OLDER = {"sse4": "Nehalem", "avx2": "Haswell,-pcid,-x2apic,-tsc-deadline,-hle,-invpcid,-rtm"}
ARM = {
    cpu.name: cpu
    for cpu in (
        Cpu("cortex-a72", ("ASIMD",), ("ASIMDDP",), is_exact=True, is_emulated=True),
        Cpu("neoverse-n1", ("ASIMD", "ASIMDDP"), ("SVE",), is_exact=True, is_emulated=True),
    )
}
ARM_ROOT = ROOT / ".venv-arm64"


def older(name: str, folder: Path) -> Cpu:
    """An older x86-64 CPU, with the library in a folder of the caller's.

    Raises:
        UnavailableError: Neither this machine nor qemu-user has it.
    """
    cpu = OLDER[name]
    try:
        require_faulting(folder)
    except UnavailableError as error:
        model, qemu = _EMULATED_OLDER.get(name), shutil.which("qemu-x86_64")
        if model is None or qemu is None or platform.machine() != "x86_64":
            raise UnavailableError(f"{error}, and qemu-x86_64 {'has no such CPU' if qemu else 'is missing'}") from error
        return _on_qemu(cpu, (qemu, "-cpu", model, sys.executable), {})
    if name in _NEEDS and _NEEDS[name] not in _features_here():
        raise UnavailableError(f"this CPU has no {_NEEDS[name]}")
    return Cpu(
        cpu.name, cpu.features, cpu.hidden, cpu.is_exact, environment={**_preload(folder), "OLDER_CPU": cpu.name}
    )


def arm(name: str) -> Cpu:
    """An Arm core.

    Raises:
        UnavailableError: tests/arm64/install.sh has not run.
    """
    root = ARM_ROOT / "root"
    python = next((root / "usr" / "bin").glob("python3.??"), None)
    if python is None or not (ARM_ROOT / ".ready").exists():
        raise UnavailableError("tests/arm64/install.sh has not run")
    paths = os.pathsep.join(map(str, (ARM_ROOT / "site", ROOT, ROOT / "export")))
    environment = {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    qemu = root / "usr" / "bin" / "qemu-aarch64"
    return _on_qemu(ARM[name], (str(qemu), "-L", str(root), "-cpu", name, str(python)), environment)


def _on_qemu(cpu: Cpu, command: tuple[str, ...], environment: Mapping[str, str]) -> Cpu:
    return Cpu(cpu.name, cpu.features, cpu.hidden, cpu.is_exact, command, environment, is_emulated=True)


@cache
def require_faulting(folder: Path) -> None:
    """Check that the instruction CPUID can fault here, by a process that asks for it.

    Raises:
        UnavailableError: It cannot.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UnavailableError(f"CPUID cannot fault on {platform.system()} {platform.machine()}")
    if shutil.which("gcc") is None:
        raise UnavailableError("gcc is missing")
    environment = {**os.environ, **_preload(folder), "OLDER_CPU": "sse4"}
    done = subprocess.run(["/bin/true"], env=environment, capture_output=True, text=True, check=False)
    if done.returncode == UNAVAILABLE:
        raise UnavailableError(done.stderr.strip().removeprefix("OLDER_CPU=sse4: "))
    assert done.returncode == 0, done.stderr


def _preload(folder: Path) -> dict[str, str]:
    """The variable that preloads the library, which is built if it is not there."""
    library = folder / "older_cpu.so"
    if not library.exists():
        built = folder / f"older_cpu-{os.getpid()}.so"
        options = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run(["gcc", *options, "-o", str(built), str(LIBRARY), "-ldl"], check=True)
        built.replace(library)  # whole, for the other processes
    return {"LD_PRELOAD": str(library)}


@cache
def _features_here() -> frozenset[str]:
    flags = next(line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "flags" in line)
    return frozenset(flags.split())
