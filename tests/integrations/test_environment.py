"""The environment of these tests: the frameworks work without torch and sentence-transformers."""

from importlib.util import find_spec


def test_there_is_no_torch() -> None:
    assert [name for name in ("torch", "transformers", "sentence_transformers") if find_spec(name)] == []
