"""pyarrow, or the command that installs it."""

from embedrt.errors import MissingDependencyError

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    from pyarrow import fs
except ImportError as error:
    raise MissingDependencyError("pyarrow is not installed; run `pip install 'embedrt[bulk]'`") from error

__all__ = ["fs", "pa", "pc", "pq"]
