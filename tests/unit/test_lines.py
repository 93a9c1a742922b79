"""Texts from a file: one a line, and the same lines wherever a file of texts is read."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedrt
from embedrt import Embedder
from embedrt.cli.main import main
from embedrt.inputs.lines import read_lines
from embedrt_export.dtypes.int8.texts import FEWEST, read_texts
from tests.kit.bundles import copy_bundle

ODD = "a\u2028b\u2029c\x0bd\x0ce\x1cf\x1dg\x1eh\x85i\rj"
"""One text; `str.splitlines` would make ten of it."""


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"one", ["one"]),
        (b"one\n", ["one"]),
        (b"one\n\ntwo", ["one", "", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\r", ["one"]),
        (b"one\r\r\n", ["one\r"]),
        (b" one \t\n", [" one \t"]),
        (b"\xef\xbb\xbf", []),
        (b"\xef\xbb\xbfone\ntwo", ["one", "two"]),
        (b"\xef\xbb\xbf\n", [""]),
        (b"one\n\xef\xbb\xbftwo", ["one", "\ufefftwo"]),
        (b"one\0two\n", ["one\0two"]),
        (ODD.encode(), [ODD]),
    ],
)
def test_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, texts: list[str]) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(content)
    assert read_lines(path) == texts
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
    assert read_lines(None) == texts


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"))))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("lines") / "lines.txt"
    for end in ("\n", "\r\n"):
        path.write_bytes(b"\xef\xbb\xbf" + "".join(text + end for text in texts).encode())
        assert read_lines(path) == (texts if end == "\r\n" else [text.removesuffix("\r") for text in texts])


def test_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(b"one\ntwo\n\xff\n")
    assert read_lines(path, 2) == ["one", "two"]


@pytest.mark.parametrize("content", [b"one\n\xff\n", b"one\ntwo \xff", b"one\n\xed\xa0\x80\n"])
def test_what_is_not_utf8(tmp_path: Path, content: bytes) -> None:
    """The last is a lone surrogate."""
    path = tmp_path / "lines.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"lines\.txt:2: expected UTF-8, got byte 0x(ff|ed) at position [15]; convert"):
        read_lines(path)


def test_standard_input_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="standard input: expected texts, one per line, but it is closed; pass texts"):
        read_lines(None)


def test_a_file_has_the_same_texts_for_every_command(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """120 lines with every character that some library takes for the end of one."""
    texts = [f"{ODD} {i}" for i in range(120)]
    path, bundle = tmp_path / "lines.txt", copy_bundle(tiny_bundle, tmp_path / "bundle")
    content = b"\xef\xbb\xbf" + "\r\n".join(texts).encode()
    path.write_bytes(content)

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert (
        main(["encode", "-m", str(bundle), "-", "--output", str(tmp_path / "x.npy"), "--on-truncation", "ignore"]) == 0
    )
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), Embedder(bundle).encode(texts))
    capsys.readouterr()
    assert main(["diff", str(bundle), str(bundle), "--texts", str(path)]) == 0
    assert "texts         120\n" in capsys.readouterr().out
    assert main(["ranges", str(bundle), "--texts", str(path)]) == 0
    assert "ranges measured over 120 texts" in capsys.readouterr().out
    assert main(["tune", str(bundle), "--texts", str(path), "--seconds", "0.01"]) == 0
    assert "chosen, over 120 texts: " in capsys.readouterr().out
    assert read_texts(path).origin == "120 lines of lines.txt"
    assert FEWEST <= 120
    assert len(embedrt.diff(bundle, bundle, read_lines(path)).cosine) == 120
