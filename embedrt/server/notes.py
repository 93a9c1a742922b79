"""`Notes`: facts about a request, which its model writes down for headers, metrics and log."""

from dataclasses import dataclass, field
from typing import Protocol

from embedrt.server.settings import Settings


@dataclass
class Notes:
    """Facts about a request that its headers, the metrics and the log show.

    Attributes:
        model: The served name of the model.
        substituted: Whether the client asked for another model than the one that answered.
        texts: Texts that the model read; a pair counts as one.
        characters: Characters of these texts.
        tokens: Their tokens, after truncation.
        truncated: Indexes of the truncated texts.
        tokenize_seconds: Seconds of tokenization.
        queue_seconds: Seconds that the first text waited for its batch.
        engine_seconds: Seconds from the first batch to the last.
    """

    model: str = ""
    substituted: bool = False
    texts: int = 0
    characters: int = 0
    tokens: int = 0
    truncated: list[int] = field(default_factory=list)
    tokenize_seconds: float = 0.0
    queue_seconds: float = 0.0
    engine_seconds: float = 0.0


class Context(Protocol):
    """The part of a request that its model needs; an `Exchange` has it."""

    @property
    def settings(self) -> Settings:
        """The server's configuration."""

    @property
    def notes(self) -> Notes:
        """Facts for headers, metrics and log."""
