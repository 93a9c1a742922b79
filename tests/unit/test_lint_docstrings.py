"""The check of docstrings finds what it is for."""

import pytest

from tests.lint.docstrings import clauses


@pytest.mark.parametrize("word", ["What", "Whether", "How", "Where"])
def test_a_clause_is_found(word: str) -> None:
    source = (
        f'"""A module."""\n\n\nclass A:\n    def b(self):\n        """{word} it does.\n\n        More.\n        """\n'
    )
    assert list(clauses(source)) == [(6, f"{word} it does.")]


@pytest.mark.parametrize("text", ["However long.", "Rows of a batch.", "Whatever", "Return what fits."])
def test_other_words_are_not(text: str) -> None:
    assert list(clauses(f'"""{text}"""\nx = 1\n')) == []
