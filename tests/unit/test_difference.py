"""Two sets of vectors against counts by hand, and the command that compares bundles."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrt import Embedder
from embedrt.cli.main import main
from embedrt.verify.difference import difference
from embedrt_export import export
from tests.kit.models import make_model


def test_each_number_by_hand() -> None:
    a = np.array([[1, 0], [0, 2], [1, 1], [0, 0]], np.float32)
    b = np.array([[0, 1], [0, 3], [1, 1], [0, 0]], np.float32)
    found = difference(a, b)
    np.testing.assert_allclose(found.cosine, [0, 1, 1, 1], atol=1e-12)
    np.testing.assert_allclose(found.max_abs_error, [1, 1, 0, 0])
    np.testing.assert_allclose(found.norm_error, [0, 1, 0, 0], atol=1e-7)
    np.testing.assert_array_equal(found.overlap, [1, 1, 1, 1])  # all the others, as there are but three
    # In A the first text is nearest to the third; in B to the second, and the second to it.
    np.testing.assert_array_equal(found.first_changed, [True, True, False, False])


def test_top_ten_among_many() -> None:
    """On a circle the neighbours of a text are those beside it; every second text swapped with its neighbour."""
    angles = np.linspace(0, 3, 40)
    a = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    b = a.reshape(20, 2, 2)[:, ::-1].reshape(40, 2)
    found = difference(a, b)

    def nearest(vectors: np.ndarray, i: int) -> list[int]:
        scores = vectors.astype(float) @ vectors[i].astype(float)
        return sorted(set(range(40)) - {i}, key=lambda j: -scores[j])[:10]

    by_hand = [len(set(nearest(a, i)) & set(nearest(b, i))) / 10 for i in range(40)]
    np.testing.assert_allclose(found.overlap, by_hand)
    assert 0.5 < found.overlap.mean() < 1


@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 5))
def test_equal_vectors_differ_in_nothing(count: int, dim: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    found = difference(vectors, 2 * vectors)
    np.testing.assert_allclose(found.cosine, 1)
    assert (found.overlap == 1).all()
    assert not found.first_changed.any()
    assert not difference(vectors, vectors).max_abs_error.any()


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((2, 3), (3, 3)), ((1, 3), (1, 3)), ((3,), (3,))])
def test_what_cannot_be_compared(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"^vectors: expected two arrays|^texts: expected at least 2"):
        difference(*(np.ones(shape, np.float32) for shape in shapes))


def test_command(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = export(make_model(tmp_path / "other", seed=1), tmp_path / "other-bundle")
    assert main(["diff", str(tiny_bundle), str(tiny_bundle), "--worst", "0"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[2:])
    assert lines["fingerprints"] == "equal"
    assert lines["cosine"] == "min 1.000000, mean 1.000000"
    assert lines["top"] == "10        100.00% the same; first one changed for 0.00%"

    texts = tmp_path / "texts.txt"
    texts.write_text("one\ntwo dogs\nthe river bank\nä cat\n", encoding="utf-8")
    command = ["diff", str(tiny_bundle), str(other), "--texts", str(texts), "--device", "cpu,cpu", "--worst", "2"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    vectors = [Embedder(bundle).encode(texts.read_text("utf-8").splitlines()) for bundle in (tiny_bundle, other)]
    found = difference(*vectors)
    assert "fingerprints  different" in shown
    assert f"cosine        min {found.cosine.min():.6f}, mean {found.cosine.mean():.6f}" in shown
    assert shown.count("  cosine ") == 2
    assert main(["diff", str(tiny_bundle), str(other), "--device", "cpu,cpu,cpu"]) == 1
    assert "--device: expected one value, or two separated by a comma" in capsys.readouterr().err
