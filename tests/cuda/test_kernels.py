"""The attention kernel that the real CUDA provider takes, by card, `sdpa_kernel` and length."""

import re
from pathlib import Path

import onnx
import pytest

from tests.cuda import graphs
from tests.cuda.feeds import packed_feeds
from tests.cuda.placement import run_on_cuda
from tests.cuda.stubs import StubCuda

# Flash, memory-efficient and unfused attention, and none that needs cuDNN.
WITHOUT_CUDNN = "19"
FLASH, EFFICIENT, UNFUSED = "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"
TRT, TRT_LONG = "TRT_FUSED_ATTENTION", "TRT_FLASH_ATTENTION"


@pytest.mark.parametrize(
    ("capability", "sdpa_kernel", "length", "kernel"),
    [
        (75, "0", 40, TRT),
        (75, "0", 1024, TRT_LONG),
        (75, WITHOUT_CUDNN, 40, EFFICIENT),
        (80, "0", 40, FLASH),
        (80, WITHOUT_CUDNN, 1024, FLASH),
        (90, "0", 40, FLASH),
        (90, WITHOUT_CUDNN, 1024, FLASH),
    ],
)
def test_separate_queries_keys_and_values(
    capability: int,
    sdpa_kernel: str,
    length: int,
    kernel: str,
    graph: Path,
    cuda: StubCuda,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    cuda.configure(capability)
    assert kernels(graphs.packed_encoder(graph), length, sdpa_kernel, monkeypatch, capfd) == {kernel}


@pytest.mark.parametrize(
    ("capability", "sdpa_kernel", "length", "kernel"),
    [
        (75, "0", 40, TRT),
        (80, "0", 40, TRT),
        (80, WITHOUT_CUDNN, 40, FLASH),
        (90, "0", 40, EFFICIENT),
        (90, "0", 512, EFFICIENT),
        (90, "0", 520, FLASH),
        (90, WITHOUT_CUDNN, 40, FLASH),
    ],
)
def test_one_linear_layer_for_queries_keys_and_values(
    capability: int,
    sdpa_kernel: str,
    length: int,
    kernel: str,
    graph: Path,
    cuda: StubCuda,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    cuda.configure(capability)
    assert kernels(graphs.packed_attention(graph), length, sdpa_kernel, monkeypatch, capfd) == {kernel}


@pytest.mark.parametrize(("length", "kernel"), [(40, EFFICIENT), (44, UNFUSED)])
def test_a_bias_wants_lengths_of_a_multiple_of_8(
    length: int, kernel: str, graph: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    graphs.packed_attention(graph, has_bias=True)
    assert kernels(graph, length, WITHOUT_CUDNN, monkeypatch, capfd) == {kernel}


def kernels(
    graph: Path,
    length: int,
    sdpa_kernel: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> set[str]:
    """The kernels that ONNX Runtime prints for a batch with a text of a length."""
    monkeypatch.setenv("ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO", "1")
    names = [value.name for value in onnx.load(graph).graph.input]
    run_on_cuda(graph, packed_feeds(names, [length, 3], step=1), {"sdpa_kernel": sdpa_kernel})
    return set(re.findall(r"SdpaKernel=(\w+)", capfd.readouterr().out))
