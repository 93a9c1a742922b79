"""Engines that spread the units of a job over the workers of a cluster; one module each."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, TypeVar

Item_contra = TypeVar("Item_contra", contravariant=True)
Outcome_co = TypeVar("Outcome_co", covariant=True)

ENGINES = {"ray": "embedrt.bulk.engines.ray", "spark": "embedrt.bulk.engines.spark"}


@dataclass(frozen=True)
class Assigned:
    """The share of a worker in its machine.

    Attributes:
        threads: Threads to use; None leaves them to the model.
        device: The device, or None.
        bundle: The folder of a bundle that was shipped; None if workers read the one that the job names.
    """

    threads: int | None = None
    device: str | None = None
    bundle: str | None = None


class Work(Protocol[Item_contra, Outcome_co]):
    """The work of a job, sent to the workers by pickle."""

    @property
    def model(self) -> str:
        """The bundle folder, for shipping."""

    def open(self, assigned: Assigned) -> Callable[[Item_contra], Outcome_co]:
        """Load the model, once in a worker process.

        Args:
            assigned: What the engine has assigned to the worker.

        Returns:
            A function for one unit. Threads of the worker call it at the same time.
        """


def results(engine: str, work: Work[Any, Any], items: Iterable[Any], options: Mapping[str, str | int]) -> Iterator[Any]:
    """Do work on a cluster.

    A worker that dies is started again, and its units are computed again; writing a part twice changes nothing.

    Args:
        engine: A name in `ENGINES`.
        work: The work.
        items: The units, taken as workers become free.
        options: Options of the engine; its module describes them.

    Yields:
        The outcomes, as they come. When `items` ends, the units in flight are finished.

    Raises:
        BulkError: A unit failed; the message is that of the worker.
        MissingDependencyError: The engine is not installed.
        ValueError: There is no such engine or option.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: expected one of {', '.join(ENGINES)}, got {engine!r}")
    outcomes: Iterator[Any] = import_module(ENGINES[engine]).results(work, items, options)
    return outcomes
