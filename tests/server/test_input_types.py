"""The kinds of text that clients name."""

import pytest

from embedrt.server.errors import RequestError
from embedrt.server.input_types import InputType, input_type_of

PROMPTS = {"query": "q: ", "document": "", "search_query": "s: ", "clustering": "c: ", "Odd.Name": "o: "}


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (None, InputType()),
        ("query", InputType("query")),
        ("document", InputType("document")),
        ("passage", InputType("document")),
        ("search_document", InputType("document")),
        ("retrieval.query", InputType("query")),
        ("retrieval.passage", InputType("document")),
        ("RETRIEVAL_DOCUMENT", InputType("document")),
        ("nl2code.query", InputType("query")),
        ("classification", InputType()),
        ("text-matching", InputType()),
        ("clustering", InputType(None, "clustering")),
        ("search_query", InputType("query", "search_query")),
        ("Odd.Name", InputType(None, "Odd.Name")),
    ],
)
def test_names(named: str | None, expected: InputType) -> None:
    assert input_type_of(PROMPTS, named=named) == expected


def test_precedence() -> None:
    assert input_type_of(PROMPTS, role="query") == InputType("query")
    assert input_type_of(PROMPTS, role="query", named="passage") == InputType("document")
    assert input_type_of(PROMPTS, role="query", named="classification") == InputType()
    chosen = input_type_of(PROMPTS, role="query", named="clustering", prompt_name="Odd.Name")
    assert chosen == InputType(None, "Odd.Name")


def test_unknown_names() -> None:
    with pytest.raises(RequestError, match="task: expected 'query', 'document' or the name of a prompt") as failure:
        input_type_of(PROMPTS, named="odd.name", param="task")
    assert failure.value.param == "task"
    with pytest.raises(RequestError, match=r"prompt_name: expected one of 'query', .*, got 'x'") as failure:
        input_type_of(PROMPTS, prompt_name="x")
    assert failure.value.param == "prompt_name"
    with pytest.raises(RequestError, match="expected one of none, as the model has no prompts, got 'x'"):
        input_type_of({}, prompt_name="x")
