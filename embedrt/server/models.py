"""`Models`: the open models of a server by name."""

import logging
from collections.abc import Sequence

from embedrt.server.errors import RequestError
from embedrt.server.notes import Context
from embedrt.server.served import ROLES, Role, Served
from embedrt.server.token_ids import Vocabulary
from embedrt.types import Task

logger = logging.getLogger("embedrt")


class Models:
    """The open models of a server. A reload makes another one; requests in progress keep theirs.

    Args:
        served: The models, the default one first.
        strict: Whether an unknown name is an error also if there is only one model.
        vocabulary: The vocabulary of cl100k_base, for models that read its token ids.
    """

    def __init__(self, served: Sequence[Served], *, strict: bool = False, vocabulary: Vocabulary | None = None) -> None:
        self.served = tuple(served)
        self.vocabulary = vocabulary
        self._strict = strict
        self._has_warned = False
        self._by_name: dict[str, tuple[Served, Role | None]] = {}
        for one in served:
            for name in (one.name, *one.settings.aliases):
                self._by_name.setdefault(name, (one, None))
                for role in ROLES:
                    self._by_name.setdefault(f"{name}:{role}", (one, role))

    def get(self, name: str) -> Served | None:
        """The model of a name or alias; None if there is none."""
        found = self._by_name.get(name)
        return None if found is None else found[0]

    def find(self, name: str | None, exchange: Context, task: Task | None = None) -> tuple[Served, Role | None]:
        """The model of a name or alias, and the role that the alias implies.

        Args:
            name: The name; None or "" takes the first model of the task.
            exchange: The request, which notes a substitution.
            task: The task of the route, which decides among several models if there is no name.

        Raises:
            RequestError: The name is unknown, and there are several models, or names are strict.
        """
        found = self._by_name.get(name or "")
        if found is None and not name:
            found = next(
                ((one, None) for one in self.served if task is None or one.offers(task)), (self.served[0], None)
            )
        if found is None:
            if self._strict or len(self.served) > 1:
                known = ", ".join(repr(one.name) for one in self.served)
                raise RequestError(
                    f"The model {(name or '')[:100]!r} does not exist; this server has {known}",
                    "not_found",
                    param="model",
                    code="model_not_found",
                )
            role = next((role for role in ROLES if (name or "").endswith(f":{role}")), None)
            found = self.served[0], role
            exchange.notes.substituted = True
            self._warn(name or "")
        exchange.notes.model = found[0].name
        return found

    def _warn(self, name: str) -> None:
        """Log once that a model answers to a name that is not its own."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%r answers requests for %r, and for every other name; strict_model makes that an error",
                self.served[0].name,
                name[:100],
            )
