"""The CPUs are what their names say: for numpy, for ONNX Runtime, in threads, children and other programs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cpus.cpus import OLDER, UNAVAILABLE, Cpu, UnavailableError, older

_CRASH = "import ctypes; ctypes.string_at(0)"


def facts(cpu: Cpu, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cpu.output("-m", "tests.cpus.facts", *arguments))
    return found


def test_numpy_and_onnxruntime_take_it_for_that_cpu(cpu: Cpu) -> None:
    """ONNX Runtime shows by its int8 kernels, which saturate on some CPUs; the second config is exact on all."""
    found = facts(cpu)
    assert set(cpu.features) <= set(found["features"])
    assert set(cpu.hidden).isdisjoint(found["features"])
    assert found["exact"] == [cpu.is_exact, True]
    assert found["exact for bounded pairs"] == [True, True]


@pytest.fixture
def hidden(fast_cpu: Cpu) -> Cpu:
    """Each CPU whose features are hidden by the library."""
    if "OLDER_CPU" not in fast_cpu.environment:
        pytest.skip(f"{fast_cpu.name}: no features are hidden")
    return fast_cpu


def test_threads_children_and_other_programs_have_the_same_cpu(hidden: Cpu) -> None:
    found = facts(hidden, "children")
    assert found["of a child"] == found["of a fork"] == found["features"]
    assert not found["amx"]


def test_a_bad_pointer_still_ends_the_process(hidden: Cpu) -> None:
    assert hidden.run("-c", _CRASH).returncode == -signal.SIGSEGV


def test_a_handler_of_the_program_gets_its_faults(hidden: Cpu) -> None:
    """Python's faulthandler, which is there before numpy asks for the CPU."""
    done = hidden.run("-X", "faulthandler", "-c", f"import numpy; {_CRASH}")
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr
    assert "string_at" in done.stderr


def run_preloaded(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        preload = older("sse4", folder).environment
    except UnavailableError as error:
        pytest.skip(str(error))
    if "LD_PRELOAD" not in preload:
        pytest.skip("CPUID cannot fault here")
    clean = {name: value for name, value in os.environ.items() if name != "OLDER_CPU"}
    return subprocess.run(
        [sys.executable, "-m", "tests.cpus.facts", "numpy"],
        env={**clean, "LD_PRELOAD": preload["LD_PRELOAD"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_library_alone_hides_nothing(library: Path) -> None:
    here = subprocess.run([sys.executable, "-m", "tests.cpus.facts", "numpy"], capture_output=True, check=True)
    assert json.loads(run_preloaded(library, {}).stdout) == json.loads(here.stdout)


def test_an_unknown_level_is_refused(library: Path) -> None:
    done = run_preloaded(library, {"OLDER_CPU": "avx3"})
    assert (done.returncode, done.stdout) == (UNAVAILABLE, "")
    assert done.stderr == "OLDER_CPU=avx3: no such level\n"


def test_every_level_of_the_library_is_tested() -> None:
    source = (Path(__file__).parent / "older_cpu.c").read_text(encoding="utf-8")
    table = source.partition("LEVELS[] = {")[2].partition("};")[0]
    assert [line.split('"')[1] for line in table.splitlines() if '"' in line] == list(OLDER)
