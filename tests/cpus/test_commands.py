"""Commands on other CPUs: doctor, info, encode, verify and export."""

import json
from pathlib import Path

import numpy as np
import pytest

from embedrt.bundle.manifest import read_bundle
from tests.cpus.cpus import HERE, Cpu


def test_doctor(cpu: Cpu) -> None:
    """Nothing is wrong with the CPU: the machine has no default model, and that is all.

    OpenVINO lists what it computes on the CPU that it finds; the other lines do not depend on it.
    """
    done = cpu.run("-m", "embedrt", "doctor")
    assert done.stdout.count(" ! ") == 1
    assert "default model" in done.stdout.partition(" ! ")[0].splitlines()[-2]
    assert (done.returncode, done.stderr) == (1, "")
    if not cpu.is_emulated:
        here = HERE.run("-m", "embedrt", "doctor").stdout
        lines, expected = (
            [line for line in text.splitlines() if "openvino" not in line] for text in (done.stdout, here)
        )
        assert lines == expected


def test_info(cpu: Cpu, small_bundle: Path) -> None:
    assert cpu.output("-m", "embedrt", "info", small_bundle) == HERE.output("-m", "embedrt", "info", small_bundle)


def test_encode(cpu: Cpu, small_bundle: Path) -> None:
    command = "-m", "embedrt", "encode", "--model", small_bundle, "one text"
    here, there = (np.array(json.loads(where.output(*command))) for where in (HERE, cpu))
    assert np.abs(there - here).max() <= 1e-5


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_verify(cpu: Cpu, small_bundle: Path, dtype: str) -> None:
    assert f"\n{dtype}: " in cpu.output("-m", "embedrt", "verify", small_bundle, "--dtype", dtype)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_verify_minilm(fast_cpu: Cpu, int8_bundle: Path, dtype: str) -> None:
    assert f"\n{dtype}: " in fast_cpu.output("-m", "embedrt", "verify", int8_bundle, "--dtype", dtype)


def test_export_of_a_small_model(cpu: Cpu, small_source: Path, tmp_path: Path) -> None:
    """The bundle that is made there holds what it promises, there and here."""
    cpu.output("-m", "embedrt", "export", small_source, "--output", tmp_path / "bundle", "--dtype", "float32,int8")
    assert read_bundle(tmp_path / "bundle").dtypes == ("float32", "int8")
    for dtype in ("float32", "int8"):
        assert f"\n{dtype}: " in HERE.output("-m", "embedrt", "verify", tmp_path / "bundle", "--dtype", dtype)
