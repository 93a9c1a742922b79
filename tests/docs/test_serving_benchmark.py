"""The benchmark of servers: its load, its arithmetic, its tables, and servers that fail."""

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks import serving
from benchmarks.http_load import LoadError, run
from benchmarks.serving import Measured
from embedrt import Embedder
from embedrt.server.settings import ModelSettings, Settings
from tests.kit import server as kit

TEXTS = [f"text number {i}" for i in range(40)]


def test_every_request_is_answered(tiny_bundle: Path, tiny: Embedder) -> None:
    with kit.serving(Settings((ModelSettings("m", str(tiny_bundle)),))) as running:
        job = {"port": running.port, "path": "/v1/embeddings", "extra": {"encoding_format": "base64"}}
        parts = serving.in_parts(TEXTS, 8)
        done = asyncio.run(run({**job, "kind": "together", "requests": parts, "clients": 3}))
        assert len(done["latencies"]) == len(parts) == 5
        assert done["seconds"] >= max(done["latencies"])
        beside = asyncio.run(run({**job, "kind": "beside", "stream": parts, "queries": ["one"], "least": 0.0}))
        assert beside["seconds"] > 0
        with pytest.raises(LoadError, match="404"):
            asyncio.run(run({**job, "path": "/nowhere", "kind": "together", "requests": parts, "clients": 1}))


def test_percentiles() -> None:
    values = [float(i) for i in range(100, 0, -1)]
    assert [serving.percentile(values, share) for share in (0.0, 0.5, 0.99)] == [1.0, 51.0, 100.0]


def test_records_targets_and_tables() -> None:
    own = Measured(
        None, [200.0, 220.0], [[0.003] * 99 + [0.006]] * 2, [[0.010] * 100] * 2, [0.02] * 100, 0.5, 300.4, 1e-8
    )
    peer = Measured(None, [80.0, 90.0], [[0.020] * 100] * 2, [[0.1] * 100] * 2, [0.5] * 100, 5.0, 2000.0, 1e-7)
    found = serving.as_record(
        {serving.OWN: own, "peer": peer, "x": Measured("no | luck\nat all")},
        {serving.OWN: [(220.0, 0.0025), (220.0, 0.0025)]},
    )
    assert found[serving.OWN]["share_of_encode"]["median"] == pytest.approx((200 / 220 + 1) / 2, abs=1e-3)
    assert (found[serving.OWN]["one_p50_ms"], found[serving.OWN]["one_p99_ms"]) == (3.0, 6.0)
    verdicts = list(serving.verdicts(found, tokens_per_text=100.0, threads=2))
    assert [row.met for row in verdicts] == [True] * 8
    assert verdicts[1].reached == "0.50"
    assert "peer" in verdicts[4].reached
    record = {
        "machine": {"title": "A machine", "python": "3.11"},
        "versions": {"embedrt": "1"},
        "date": "2026-01-01T00:00:00",
        "command": "python",
        "file": "f.json",
        "corpus": "texts",
        "rounds": 2,
        "tokens_per_text": 100.0,
        "servers": found,
        "targets": [],
    }
    lines = list(serving.serving_tables([record]))
    assert "| **embedrt** | 210 | 95% | 3.0 / 6.0 | 10.0 / 10.0 | 20.0 / 20.0 | 0.5 | 300 | 1e-08 |" in lines
    assert [line.count("|") for line in lines if line.startswith("|")] == [10] * 5 + [4] * 2
    assert json.dumps(found)


def test_nothing_measured_is_no_verdict() -> None:
    found = serving.as_record({serving.OWN: Measured("failed")}, {})
    assert {row.met for row in serving.verdicts(found, 100.0, 2)} == {None}


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    program = serving.Server(("python3", "-c", "raise SystemExit('no')"))
    with pytest.raises(RuntimeError, match="no reply: no"):
        serving.Running(program, {}, tmp_path / "log")
