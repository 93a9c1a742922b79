"""The token budget of packed batches on a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrt import Embedder
from embedrt.bundle.manifest import Packing
from embedrt.engine import Device, cuda, cuda_setup
from embedrt.engine.cuda_setup import Card
from embedrt.engine.devices import DEVICES
from embedrt.engine.placement import place
from embedrt.engine.token_budget import LARGEST, SMALLEST, token_budget, token_bytes

MB, GB = 10**6, 10**9
MODELS = {"MiniLM": 45 * MB, "base": 220 * MB, "large": 670 * MB, "0.6B": 1200 * MB, "7B": 14 * GB}


@pytest.mark.parametrize(
    ("model", "budget"), [("MiniLM", 32768), ("base", 16384), ("large", 8192), ("0.6B", 8192), ("7B", 4096)]
)
def test_a_larger_model_has_smaller_batches(model: str, budget: int) -> None:
    assert token_budget(MODELS[model]) == token_budget(MODELS[model], 80 * GB) == budget


@pytest.mark.parametrize(
    ("model", "free", "budget"),
    [
        ("MiniLM", 4 * GB, 32768),
        ("MiniLM", GB, 16384),
        ("base", 2 * GB, 16384),
        ("base", GB, 8192),
        ("large", 4 * GB, 8192),
        ("large", 2 * GB, 4096),
        ("large", 1500 * MB, 1024),
        ("large", GB, 256),
        ("large", 0, 256),
    ],
)
def test_less_memory_has_smaller_batches(model: str, free: int, budget: int) -> None:
    assert token_budget(MODELS[model], free) == budget


@given(st.integers(0, 10**12), st.one_of(st.none(), st.integers(0, 10**12)))
def test_a_budget_is_a_power_of_two_that_fits(weights: int, free: int | None) -> None:
    budget = token_budget(weights, free)
    assert budget & (budget - 1) == 0
    assert 256 <= budget <= LARGEST
    assert budget >= SMALLEST or free is not None
    if free is not None and budget > 256:
        assert 4 * budget * token_bytes(weights) + 2 * weights <= free
    assert token_budget(weights + MB, free) <= budget


def test_the_memory_of_a_token() -> None:
    assert token_bytes(1) == token_bytes(MODELS["MiniLM"]) == 8192
    assert 19_000 < token_bytes(MODELS["large"]) < 21_000


@pytest.mark.parametrize(
    ("device", "layout", "max_tokens", "budget"),
    [
        (DEVICES["cuda"], "packed", None, 16384),
        (DEVICES["cuda"].with_memory_limit(GB), "packed", None, 8192),
        (DEVICES["cuda"], "packed", 100, 100),
        (DEVICES["cuda"], "padded", None, DEVICES["cuda"].token_budget),
        (DEVICES["cpu"], "packed", None, 512),
    ],
)
def test_packed_batches_on_cuda_follow_the_model(
    tiny_bundle: Path, device: Device, layout: str, max_tokens: int | None, budget: int
) -> None:
    manifest = Embedder(tiny_bundle).manifest
    variant = manifest.routes["default"].variants[-1]
    packing = Packing((), None, 1, None) if layout == "packed" else None
    variant = replace(variant, layout=layout, packing=packing, devices=())  # type: ignore[arg-type]
    route = replace(manifest.routes["default"], variants=(variant,))
    placed = place(tiny_bundle, route, device, "float32", 1, max_tokens, size_of=lambda _: MODELS["base"])
    assert placed.max_tokens == budget


@pytest.mark.parametrize(
    ("card", "limit", "room"),
    [
        (None, None, None),
        (None, GB, GB),
        (16 * GB, None, 15 * GB),
        (16 * GB, 2 * GB, 2 * GB),
        (16 * GB, 20 * GB, 15 * GB),
    ],
)
def test_the_memory_of_a_card(
    card: int | None, limit: int | None, room: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = None if card is None else (Card("card", (9, 0), card),)
    monkeypatch.setattr(cuda_setup, "_driver", lambda: {"cards": cards})
    device = DEVICES["cuda"].with_memory_limit(limit)
    assert cuda.memory(device) == room


def test_the_size_of_a_variant(tiny_bundle: Path) -> None:
    manifest = Embedder(tiny_bundle).manifest
    variant = manifest.routes["default"].variants[-1]
    assert manifest.size_of(variant) == sum((tiny_bundle / file).stat().st_size for file in variant.files) > 0
