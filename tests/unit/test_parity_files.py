"""Damaged parity texts and reference vectors, of which the manifest has the right hash."""

import json
from io import BytesIO

import numpy as np
import pytest

from embedrt import BundleError
from embedrt.verify.parity import parity_items_of, parity_vectors_of


def npy(array: object) -> bytes:
    file = BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


GOOD = npy(np.ones((2, 3), np.float32))


def test_good_files() -> None:
    assert parity_items_of(json.dumps(["a", "🙂"]).encode(), "t") == ["a", "🙂"]
    np.testing.assert_array_equal(parity_vectors_of(GOOD, "v", (2, 3)), np.ones((2, 3)))


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'["a"', b'["\\ud800"]', b"null"])
def test_damaged_texts(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"^parity/texts\.json.*; get the bundle again$"):
        parity_items_of(content, "parity/texts.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GOOD[:40],
        GOOD[:-1],
        GOOD.replace(b"'<f4'", b"'|O' "),
        GOOD.replace(b"(2, 3)", b"(2,(3)"),
        GOOD.replace(b"(2, 3), ", b"(2000000000000, 3000000), ")[: len(GOOD)],
        npy(np.ones((2, 4), np.float32)),
        npy(np.ones((2, 3))),
        npy(np.full((2, 3), np.nan, np.float32)),
    ],
)
def test_damaged_vectors(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"^v\.npy: .*; get the bundle again$"):
        parity_vectors_of(content, "v.npy", (2, 3))
