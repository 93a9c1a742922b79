"""The benchmark on a GPU over the stub libraries: the way of its command through packed float16 graphs."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.cuda.stubs import StubCuda


def test_the_command_runs_on_cuda(cuda: StubCuda, tmp_path: Path) -> None:
    """Whatever needs torch is noted, as torch is missing."""
    output = tmp_path / "r.json"
    options = ["--quick", "--models", "qwen3", "--output", str(output)]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(cuda.folder)}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *options],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    record = json.loads(output.read_bytes())
    failed = [step for step in record["steps"] if step["error"]]
    assert [step for step in failed if "'torch'" not in step["error"]] == [], done.stderr
    model = record["models"]["qwen3"]
    assert "CUDA graphs" in model["engine"]
    assert model["end_to_end"]["mixed"]["embedrt_texts_per_s"]["median"] > 0
    assert model["one_query"]["engine_alone_p50_ms"] > 0
    assert model["model_alone"]["mixed"]["embedrt_best_tokens_per_s"] > 0
