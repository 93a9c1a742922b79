"""Failures to read source files as errors that name the file."""

from collections.abc import Iterator
from contextlib import contextmanager

from embedrt.bulk.arrow import pa
from embedrt.bulk.names import printable
from embedrt.errors import BulkError


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn every failure of pyarrow within the block into a `BulkError`.

    Args:
        name: The name of the file.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise BulkError(f"{printable(name)}: missing; it was there when the job was planned") from error
    except (pa.ArrowException, OSError) as error:
        raise BulkError(f"{printable(name)}: cannot be read: {printable(str(error))}; get the file again") from error
