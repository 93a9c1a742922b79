"""Memory stays bounded whatever comes in, measured in a process of its own."""

import re
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


ANYTHING = r"""
import base64, random, re, sys
from embedrt import Embedder
size = 10_000_000
kinds = {
    "words": lambda: "the quick brown fox " * (size // 20),
    "JSON": lambda: '{"a":1,"b":[2,3]},' * (size // 18),
    "base64": lambda: base64.b64encode(random.Random(0).randbytes(size * 3 // 4)).decode(),
    "Chinese": lambda: "\u5343\u91cc\u4e4b\u884c" * (size // 12),
    "special tokens": lambda: "[SEP]" * (size // 5),
    "dots": lambda: "." * size,
    "spaces": lambda: " " * size,
    "one word": lambda: "a" * size,
    "removed": lambda: "\0" * size,
    "marks": lambda: "e\u0301" * (size // 3),
    "documents": lambda: ['{"a":1,"b":[2,3]},' * 2777] * 200,
    "a long prompt": lambda: ["a"] * 2048,
}
def peak():  # not getrusage: its maximum begins with that of the process which started this one
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) // 1024
model = Embedder(sys.argv[1])
model.encode(["a text"] * 100)
model.encode("a text")
value = kinds[sys.argv[2]]()
prompt = "one two " * 125_000 if sys.argv[2] == "a long prompt" else None
before = peak()
model.encode(value, prompt=prompt)
print(peak() - before)
"""


@pytest.mark.subprocess
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", re.findall(r'^    "(.+)": lambda', ANYTHING, re.MULTILINE))
def test_ten_megabytes_of_anything_take_little_memory(tiny_bundle: Path, kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ANYTHING, str(tiny_bundle), kind],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 100
