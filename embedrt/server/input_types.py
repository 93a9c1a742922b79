"""Kinds of text that clients name: queries, documents, or texts for another use that the model has a prompt for."""

from collections.abc import Mapping
from dataclasses import dataclass

from embedrt.server.errors import RequestError
from embedrt.server.served import Role

# By name in lower case, with "_" for "." and "-". Cohere, Jina, Voyage, NVIDIA and Google have different names.
_ROLES: dict[str, Role] = {
    "query": "query",
    "search_query": "query",
    "retrieval_query": "query",
    "code_query": "query",
    "nl2code_query": "query",
    "code_retrieval_query": "query",
    "question_answering": "query",
    "fact_verification": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
    "retrieval_passage": "document",
    "retrieval_document": "document",
    "code_passage": "document",
    "nl2code_passage": "document",
}
# Uses that have no prompt in most models.
_OTHER = {"classification", "clustering", "separation", "text_matching", "semantic_similarity", "similarity"}


@dataclass(frozen=True)
class InputType:
    """The kind of the texts of a request.

    Attributes:
        role: Queries or documents; None if the request names neither.
        prompt_name: The name of the prompt; None takes the one of the role, else the model's default.
    """

    role: Role | None = None
    prompt_name: str | None = None


def input_type_of(
    prompts: Mapping[str, str],
    *,
    role: Role | None = None,
    named: str | None = None,
    prompt_name: str | None = None,
    param: str = "input_type",
) -> InputType:
    """The kind of the texts of a request.

    Args:
        prompts: The model's prompts by name.
        role: The role of the alias in `model`, such as "query" of "minilm:query".
        named: The kind that the request names, which takes precedence over the alias.
        prompt_name: The prompt that the request names, which takes precedence over both.
        param: The field with the kind, for messages.

    Raises:
        RequestError: The kind or the prompt is unknown.
    """
    if prompt_name is not None and prompt_name not in prompts:
        known = ", ".join(map(repr, prompts)) or "none, as the model has no prompts"
        raise RequestError(f"prompt_name: expected one of {known}, got {prompt_name[:64]!r}", param="prompt_name")
    if named is not None:
        name = named.lower().replace(".", "_").replace("-", "_")
        if name not in _ROLES and name not in _OTHER and named not in prompts:
            raise RequestError(
                f"{param}: expected 'query', 'document' or the name of a prompt of the model, got {named[:64]!r}",
                param=param,
            )
        role = _ROLES.get(name)
        if prompt_name is None and named in prompts and named not in {"query", "document"}:
            prompt_name = named
    return InputType(role, prompt_name)
