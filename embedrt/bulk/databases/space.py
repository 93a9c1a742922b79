"""The vector space of a table: one model's."""

from embedrt.bulk.databases.rows import Layout
from embedrt.errors import BulkError

FINGERPRINT = "embedrt.fingerprint"
"""The key under which tables keep the fingerprint."""


def check_space(table: str, layout: Layout, dim: int, fingerprint: str | None) -> None:
    """Check that a table takes the vectors.

    Args:
        table: The name of the table.
        layout: The layout of the job.
        dim: Coordinates of the table's vectors.
        fingerprint: The fingerprint that the table has; None if others made it.

    Raises:
        BulkError: The vectors do not belong there.
    """
    if dim != layout.dim:
        raise BulkError(
            f"table {table!r}: expected vectors of {dim} coordinates, got {layout.dim}; choose another table"
        )
    if fingerprint not in {None, layout.fingerprint}:
        raise BulkError(
            f"table {table!r}: expected vectors with the fingerprint {fingerprint}, got {layout.fingerprint}: another "
            "model made those of the table; choose another table"
        )
