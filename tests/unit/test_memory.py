"""Memory stays bounded whatever comes in, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import random, re, sys
from embedrt import Embedder
draw = random.Random(0)
lengths = [draw.choice((1, 3, 10, 30, 100, 254, 400)) for _ in range(300)] + [254] * 60
model = Embedder(sys.argv[1])
model.encode("one text alone, for the wide session")
vectors = model.encode([" ".join(draw.choice(("river", "bank", "vector")) for _ in range(n)) for n in lengths])
assert vectors.shape == (360, 384)
# Not getrusage: its maximum begins with that of the process which started this one.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_any_mix_of_lengths_stays_below_500_mb(minilm_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(minilm_bundle)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout)
    assert 100 < peak <= 500
