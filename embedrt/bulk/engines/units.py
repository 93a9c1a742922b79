"""Units of a job as the work of an engine."""

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from embedrt.bulk.engines import Assigned, results
from embedrt.bulk.manifest import Line
from embedrt.bulk.reading import Reader
from embedrt.bulk.task import Task, compute
from embedrt.bulk.transform import Transform
from embedrt.errors import BulkError


@dataclass(frozen=True)
class UnitWork:
    """Units to parts; see `embedrt.bulk.engines.Work`.

    Attributes:
        model: The bundle folder.
        transform: The transform, which is sent without its model.
        space: The fingerprint and the dtype of the model.
    """

    model: str
    transform: Transform
    space: tuple[str, str]

    def open(self, assigned: Assigned) -> Callable[[Task], Line]:
        """Load the model in a worker process.

        Raises:
            BulkError: The worker has another model under this name.
        """
        given = self.transform.model
        choice = replace(
            given,
            source=assigned.bundle or self.model,
            threads=given.threads or assigned.threads,
            device=given.device or assigned.device,
        )
        transform = Transform(choice, self.transform.meaning, dedupe=self.transform.dedupe)
        if (found := (transform.fingerprint, transform.dtype)) != self.space:
            raise BulkError(
                f"{choice.source}: expected the model {' in '.join(self.space)}, got {' in '.join(found)} on a worker; "
                "copy the bundle there, or ship it with --engine-option ship=1"
            )

        def unit(task: Task) -> Line:
            with closing(Reader()) as reader:
                return compute(transform, task, reader)

        return unit


def lines(
    engine: str, transform: Transform, tasks: Iterable[Task], options: Mapping[str, str | int]
) -> Generator[Line]:
    """Compute units on the workers of an engine.

    Args:
        engine: The name of the engine.
        transform: The transform.
        tasks: The units, taken as workers become free.
        options: Options of the engine.

    Yields:
        The lines of parts that are in place, in the order in which they were finished.

    Raises:
        BulkError: A unit failed, or workers have another model.
    """
    model = transform.encoder.model
    work = UnitWork(os.path.abspath(model.folder), transform, (transform.fingerprint, transform.dtype))  # noqa: PTH100
    yield from results(engine, work, map(_anywhere, tasks), options)


def _anywhere(task: Task) -> Task:
    """A task that names its files from any working folder."""
    files = (file if "://" in file.path else replace(file, path=str(Path(file.path).absolute())) for file in task.files)
    return replace(task, target=str(Path(task.target).absolute()), files=tuple(files))
