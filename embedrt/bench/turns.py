"""Taking turns: one engine works while the others wait, and a turn that something else disturbed is repeated."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from embedrt.bench.process import WorkerError
from embedrt.bench.results import Result, disturbed

# A longer turn is not repeated: it would hardly find a quiet moment of its length, and some of the noise averages out.
_REPEATABLE_SECONDS = 15

Action = Callable[[str, Result], None]


class Bar(Protocol):
    """A progress bar, such as tqdm."""

    def set_description(self, desc: str) -> Any:
        """Show whose turn it is."""

    def update(self) -> Any:
        """Count a turn."""


class Turns:
    """Turns for every engine. An engine that fails is left out from then on, and its result has the error.

    Args:
        results: By engine.
        retries: How often a disturbed turn is repeated if it is short; the least disturbed try counts.
        bar: Shows whose turn it is.
    """

    def __init__(self, results: dict[str, Result], retries: int, bar: Bar) -> None:
        self.results = results
        self._retries = retries
        self._bar = bar

    def each(self, what: str, action: Action, names: Iterable[str] | None = None) -> None:
        """One round.

        Args:
            what: What is done, for the progress bar.
            action: Called with the name and result of each engine.
            names: The engines; None for all.
        """
        for name in self.results if names is None else names:
            result = self.results[name]
            if result.error is None:
                self._bar.set_description(f"{what}: {name}")
                try:
                    action(name, result)
                except WorkerError as error:
                    result.error = str(error)
                self._bar.update()

    def undisturbed(self, attempt: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The least disturbed of some tries. How fast a try was has no say in it."""
        best = attempt()
        for _ in range(self._retries):
            if not disturbed(best["other_cores"]) or best["wall_seconds"] > _REPEATABLE_SECONDS:
                break
            best = min(best, attempt(), key=lambda done: done["other_cores"])
        return best
