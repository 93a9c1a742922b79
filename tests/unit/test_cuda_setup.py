"""CUDA's facts and the lines that mend it: a table, and the gatherer over libraries that a C compiler makes."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from embedrt.cli import doctor
from embedrt.engine import cuda, cuda_setup
from embedrt.engine.cuda_setup import CUDNN, LIBRARIES, Card, Facts, dtype_problem, problem
from embedrt.engine.session import onnxruntime
from embedrt.errors import DeviceError

H100 = Card("NVIDIA H100 80GB HBM3", (9, 0), 80 << 30)
T4 = Card("Tesla T4", (7, 5), 15 << 30)
V100 = Card("Tesla V100", (7, 0), 16 << 30)
B200 = Card("NVIDIA B200", (10, 0), 180 << 30)
HEALTHY = Facts(
    wheels={"onnxruntime-gpu": "1.31.1"},
    version="1.31.1",
    providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
    platform="linux",
    driver=True,
    driver_cuda=13000,
    initialized=0,
    cards=(H100, T4),
    visible=None,
    libraries={library.name: f"/lib/{library.name}" for library in LIBRARIES},
)
CPU_ONLY = replace(HEALTHY, wheels={"onnxruntime": "1.32.0"}, version="1.32.0", providers=("CPUExecutionProvider",))
BOTH = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
MENDED = "run `pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install 'embedrt[gpu]'`"


def without(*missing: str) -> dict[str, str | None]:
    return {name: None if name in missing else path for name, path in HEALTHY.libraries.items()}


@pytest.mark.parametrize(
    ("facts", "index", "message"),
    [
        (
            CPU_ONLY,
            0,
            (
                "the installed onnxruntime 1.32.0 has no CUDAExecutionProvider; run `pip "
                "uninstall -y onnxruntime`, then `pip install 'embedrt[gpu]'`"
            ),
        ),
        (
            replace(CPU_ONLY, wheels=BOTH),
            0,
            f"onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 overwrite each other's files; {MENDED}",
        ),
        (
            replace(HEALTHY, wheels={"onnxruntime-gpu": "1.30.2"}, version="1.30.2"),
            0,
            (
                "onnxruntime-gpu 1.30.2 is too old: before 1.31, norms of float16 models add up in float16, which "
                "overflows; run `pip install 'embedrt[gpu]'`"
            ),
        ),
        (  # the module is of one wheel, the provider's library of the other
            replace(HEALTHY, wheels=BOTH, version="1.32.0"),
            0,
            f"onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 overwrite each other's files; {MENDED}",
        ),
        (replace(CPU_ONLY, platform="darwin"), 0, "CUDA needs Linux or Windows, got darwin"),
        (
            replace(HEALTHY, driver=False, driver_cuda=None, initialized=None, cards=None),
            0,
            (
                "no NVIDIA driver: libcuda.so.1 cannot be loaded; install driver R580 or later, and start a "
                "container with `--gpus all`"
            ),
        ),
        (
            replace(HEALTHY, driver_cuda=12080),
            0,
            (
                "the NVIDIA driver supports CUDA 12.8, but onnxruntime-gpu 1.31.1 needs CUDA 13; install driver "
                "R580 or later"
            ),
        ),
        (
            replace(HEALTHY, initialized=100, cards=None),
            0,
            "the NVIDIA driver finds no GPU; check `nvidia-smi`, and start a container with `--gpus all`",
        ),
        (
            replace(HEALTHY, cards=()),
            0,
            "the NVIDIA driver finds no GPU; check `nvidia-smi`, and start a container with `--gpus all`",
        ),
        (
            replace(HEALTHY, initialized=100, cards=None, visible=""),
            0,
            "CUDA_VISIBLE_DEVICES='' hides every GPU; unset it, or list GPUs, as in CUDA_VISIBLE_DEVICES=0",
        ),
        (
            replace(HEALTHY, initialized=803, cards=None),
            0,
            "libcuda.so.1 and the kernel module of the NVIDIA driver differ in version; restart the machine",
        ),
        (
            replace(HEALTHY, initialized=999, cards=None),
            0,
            "the NVIDIA driver fails with error 999 of cuInit; check `nvidia-smi`",
        ),
        (
            HEALTHY,
            2,
            "expected a GPU that this process sees: cuda:0 (NVIDIA H100 80GB HBM3), cuda:1 (Tesla T4), got cuda:2",
        ),
        (
            replace(HEALTHY, cards=(T4,), visible="1"),
            1,
            "expected a GPU that this process sees by CUDA_VISIBLE_DEVICES='1': cuda:0 (Tesla T4), got cuda:1",
        ),
        (
            replace(HEALTHY, cards=(H100, V100)),
            1,
            (
                "onnxruntime-gpu 1.31.1 has no code for Tesla V100, compute capability 7.0, only for 7.5, 8.0, 8.6, "
                "8.9, 9.0, 12.0 and later minor versions; use another GPU"
            ),
        ),
        (
            replace(HEALTHY, cards=(B200,)),
            0,
            (
                "onnxruntime-gpu 1.31.1 has no code for NVIDIA B200, compute capability 10.0, only for 7.5, 8.0, 8.6, "
                "8.9, 9.0, 12.0 and later minor versions; use another GPU"
            ),
        ),
        (
            replace(HEALTHY, libraries=without("libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10")),
            0,
            (
                "libcublasLt.so.13, libcublas.so.13, libcurand.so.10 cannot be loaded; run `pip install "
                "'nvidia-cublas~=13.0' 'nvidia-curand~=10.4'`"
            ),
        ),
        (
            replace(HEALTHY, libraries=without("libcudart.so.13")),
            0,
            "libcudart.so.13 cannot be loaded; run `pip install 'nvidia-cuda-runtime~=13.0'`",
        ),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="the names of the libraries are those of Linux")
def test_each_problem_has_the_line_that_mends_it(facts: Facts, index: int, message: str) -> None:
    assert problem(facts, index) == message


@pytest.mark.parametrize(
    "facts",
    [
        HEALTHY,
        replace(HEALTHY, wheels=BOTH),  # the GPU wheel was installed last; `embedrt doctor` names it
        replace(HEALTHY, platform="win32"),
        replace(HEALTHY, driver_cuda=13020),
        replace(HEALTHY, driver_cuda=None, initialized=None, cards=None),  # unknown is no problem
        replace(HEALTHY, libraries={}),
        replace(HEALTHY, libraries={**HEALTHY.libraries, CUDNN.name: None}),
        replace(HEALTHY, version="1.40.0", wheels={"onnxruntime-gpu": "1.40.0"}, cards=(B200,)),  # another wheel's code
    ],
)
def test_no_problem(facts: Facts) -> None:
    assert problem(facts) is None


@pytest.mark.parametrize(
    ("capability", "is_compiled"),
    [
        *(((6, 1), False), ((7, 0), False), ((7, 5), True), ((8, 0), True), ((8, 7), True), ((9, 0), True)),
        *(((10, 0), False), ((10, 3), False), ((11, 0), False), ((12, 0), True), ((12, 1), True)),
    ],
)
def test_code_runs_on_later_minor_versions_only(capability: tuple[int, int], is_compiled: bool) -> None:
    assert Card("a card", capability, 1).is_compiled == is_compiled


def test_dtypes_of_a_card() -> None:
    assert [dtype for dtype in cuda.DEVICE.computes if dtype_problem(HEALTHY, 0, dtype)] == []
    assert dtype_problem(HEALTHY, 1, "float16") is None
    assert dtype_problem(replace(HEALTHY, cards=None), 1, "bfloat16") is None
    for dtype in ("tf32", "bfloat16"):
        message = f"Tesla T4, compute capability 7.5, 15 GiB does not compute in {dtype}, only in float32, float16; "
        assert dtype_problem(HEALTHY, 1, dtype) == f"{message}use one of these dtypes"
    assert [card.attention for card in (H100, T4, V100)] == ["flash and memory-efficient", "memory-efficient", "none"]


def test_the_device_raises_what_the_facts_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_setup, "facts", lambda: HEALTHY)
    options = onnxruntime().SessionOptions()
    assert cuda.configure(options, cuda.DEVICE.with_suffix("1"), "float16", 1)[0][1]["device_id"] == "1"
    with pytest.raises(DeviceError, match=r"^dtype 'bfloat16': Tesla T4, compute capability 7.5, 15 GiB does not"):
        cuda.configure(options, cuda.DEVICE.with_suffix("1"), "bfloat16", 1)
    with pytest.raises(DeviceError, match=r"^device: 'cuda:2': expected a GPU .*, or use device='cpu'$"):
        cuda.configure(options, cuda.DEVICE.with_suffix("2"), "float32", 1)


def test_facts_are_gathered_until_there_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [replace(HEALTHY, libraries=without(LIBRARIES[0].name)), HEALTHY, CPU_ONLY]
    monkeypatch.setattr(cuda_setup, "_known", [])
    monkeypatch.setattr(cuda_setup, "gather", lambda: found.pop(0))
    assert problem(cuda_setup.facts()) is not None
    assert cuda_setup.facts() is cuda_setup.facts() is HEALTHY


class TestDoctor:
    def lines(self, facts: Facts) -> list[tuple[str, str, str | None]]:
        return [(finding.topic, finding.found, finding.problem) for finding in doctor.cuda_findings(facts)]

    def test_a_machine_where_all_is_well(self) -> None:
        site = "/venv/lib/python3.11/site-packages/nvidia/cu13/lib/"
        libraries = {CUDNN.name: "/lib/libcudnn.so.9.12.0", LIBRARIES[0].name: f"{site}libcudart.so.13"}
        assert self.lines(replace(HEALTHY, libraries=libraries)) == [
            ("cuda", "onnxruntime-gpu 1.31.1, NVIDIA driver for CUDA 13.0, 2 GPUs", None),
            (
                "  cuda:0",
                f"{H100}; computes float32, tf32, float16, bfloat16; attention kernels: flash and memory-efficient",
                None,
            ),
            (
                "  cuda:1",
                f"{T4}; computes float32, float16; attention kernels: memory-efficient",
                None,
            ),
            (f"  {LIBRARIES[0].name}", f"{site}libcudart.so.13 (nvidia-cuda-runtime None)", None),
            (f"  {CUDNN.name}", "/lib/libcudnn.so.9.12.0", None),
        ]

    def test_each_problem_is_beside_what_has_it(self) -> None:
        libraries = {**without(LIBRARIES[1].name), CUDNN.name: None}
        cuda_line, *cards, first, second, _, _, last = self.lines(
            replace(HEALTHY, driver_cuda=12080, cards=(V100,), libraries=libraries)
        )
        assert "needs CUDA 13; install driver R580 or later" in str(cuda_line[2])
        assert [found for _, found, _ in cards] == [
            "Tesla V100, compute capability 7.0, 16 GiB; computes float32, float16; attention kernels: none"
        ]
        assert "has no code for Tesla V100" in str(cards[0][2])
        assert first[2] is None
        assert second[1:] == ("missing", "run `pip install 'nvidia-cublas~=13.0'`")
        assert last[1:] == (
            "missing; packed float16 and bfloat16 graphs do without",
            "run `pip install 'nvidia-cudnn-cu13~=9.12'`",
        )

    def test_a_cpu_wheel_is_no_problem(self) -> None:
        (line,) = self.lines(CPU_ONLY)
        assert line[1].endswith("`pip install 'embedrt[gpu]'` adds CUDA); NVIDIA driver for CUDA 13.0, 2 GPUs")
        assert line[2] is None
        (line,) = self.lines(replace(CPU_ONLY, driver=False, driver_cuda=None, initialized=None, cards=None))
        assert line[1].endswith("; no NVIDIA driver, 0 GPUs")
        assert line[2] is None


class TestPreloading:
    def module(self, printed: list[str]) -> Any:
        def preload_dlls() -> None:
            printed.append("called")
            print("Failed to load libcudart.so.13")

        return SimpleNamespace(preload_dlls=preload_dlls)

    def test_nothing_is_printed(self, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
        calls: list[str] = []
        with caplog.at_level("DEBUG", "embedrt"):
            cuda_setup.preload(self.module(calls))
        assert (calls, capsys.readouterr()) == (["called"], ("", ""))
        assert caplog.messages == ["onnxruntime.preload_dlls: Failed to load libcudart.so.13"]

    def test_what_other_threads_print_passes(self, capsys: pytest.CaptureFixture[str]) -> None:
        def preload_dlls() -> None:
            thread = Thread(target=print, args=("from another thread",))
            thread.start()
            thread.join()
            print("from this one")

        cuda_setup.preload(SimpleNamespace(preload_dlls=preload_dlls))  # type: ignore[arg-type]
        assert capsys.readouterr().out == "from another thread\n"

    def test_not_when_the_program_has_loaded_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda_setup, "_loaded_from", lambda name: f"/usr/lib/{name}")
        calls: list[str] = []
        cuda_setup.preload(self.module(calls))
        assert calls == []

    @pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime().get_available_providers(), reason="a GPU wheel")
    def test_not_with_a_cpu_wheel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda_setup, "preload", None)
        assert cuda_setup.gather().libraries == {}


def test_a_cpu_wheel_without_a_driver() -> None:
    facts = cuda_setup.gather()
    if facts.driver or "CUDAExecutionProvider" in facts.providers:
        pytest.skip("there is something of CUDA here")
    assert (facts.driver_cuda, facts.initialized, facts.cards, cuda_setup.cards()) == (None, None, None, ())
    assert facts.wheels["onnxruntime"] == facts.version
    assert "pip install 'embedrt[gpu]'" in str(problem(facts))


# A driver with two cards, as much of it as is asked.
DRIVER = """
#include <string.h>
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
int cuInit(unsigned flags) { return INITIALIZED; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int index) { *device = 40 + index; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
  strncpy(name, device == 40 ? "First" : "Second", size); return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)(device - 39) << 34; return 0; }
int cuDeviceGetAttribute(int *value, int key, int device) { *value = key == 75 ? 8 : device - 34; return 0; }
"""
GATHER = """
import onnxruntime
onnxruntime.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
import ctypes
onnxruntime.preload_dlls = lambda: [ctypes.CDLL(name) for name in ("libcudart.so.13", "libcurand.so.10")]
from embedrt.engine.cuda_setup import gather
facts = gather()
print(facts.driver, facts.driver_cuda, facts.initialized, facts.visible)
print(facts.cards and [(card.name, card.capability, card.memory) for card in facts.cards])
print(facts.libraries)
"""


@pytest.mark.subprocess
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs a C compiler and Linux's names")
class TestGathering:
    def gather(self, folder: Path, **environment: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", GATHER],
            env={**os.environ, "LD_LIBRARY_PATH": str(folder), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    def build(self, folder: Path, name: str, code: str) -> None:
        (folder / "code.c").write_text(code)
        command = ["cc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), "code.c"]
        subprocess.run(command, cwd=folder, check=True, timeout=120)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        self.build(tmp_path, "libcudart.so.13", "int f(void) { return 0; }")
        self.build(tmp_path, "libcurand.so.10", "int g(void) { return 0; }")
        return tmp_path

    def test_driver_cards_and_libraries(self, folder: Path) -> None:
        self.build(folder, "libcuda.so.1", DRIVER.replace("INITIALIZED", "0"))
        facts, cards, libraries = self.gather(folder, CUDA_VISIBLE_DEVICES="1,0")
        assert facts == "True 13010 0 1,0"
        assert cards == f"[('First', (8, 6), {1 << 34}), ('Second', (8, 7), {2 << 34})]"
        found = {"libcudart.so.13": f"{folder}/libcudart.so.13", "libcublasLt.so.13": None, "libcublas.so.13": None}
        assert libraries == str({**found, "libcurand.so.10": f"{folder}/libcurand.so.10", "libcudnn.so.9": None})

    def test_no_card(self, folder: Path) -> None:
        self.build(folder, "libcuda.so.1", DRIVER.replace("INITIALIZED", "100"))
        assert self.gather(folder)[:2] == [f"True 13010 100 {os.environ.get('CUDA_VISIBLE_DEVICES')}", "None"]

    def test_a_library_that_is_no_driver(self, folder: Path) -> None:
        self.build(folder, "libcuda.so.1", "int cuGetProcAddress_v2(void) { return 0; }")
        assert self.gather(folder)[:2] == [f"True None None {os.environ.get('CUDA_VISIBLE_DEVICES')}", "None"]
