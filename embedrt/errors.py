"""The exceptions of embedrt. Invalid arguments raise the built-in ValueError and TypeError."""

import sys
from collections.abc import Collection


class EmbedrtError(Exception):
    """Base class: `except EmbedrtError` catches every failure except invalid arguments."""


class MissingDependencyError(EmbedrtError, ImportError):
    """An optional package is not installed; the message has the command that installs it."""


class CompatError(EmbedrtError, ImportError):
    """The module of `embedrt.compat` cannot take its place, or lacks a name; the message names the alternative."""


class ModelNotFoundError(EmbedrtError, OSError):
    """A model name is neither a local bundle nor a model on the hub; the message has the command to run."""


class BundleError(EmbedrtError):
    """A bundle is damaged, incomplete, of another format version, or not a bundle at all."""


class EmbeddingsError(EmbedrtError):
    """A file of embeddings is damaged or of another format, or another model made its vectors."""


class UploadError(EmbedrtError):
    """The hub rejected an upload; the message has the remedy."""


class DeviceError(EmbedrtError):
    """The device is unknown or not available, or ONNX Runtime did not load its execution provider."""


class InferenceError(EmbedrtError):
    """The tokenizer or ONNX Runtime failed on a valid input."""


class EngineError(InferenceError):
    """ONNX Runtime failed on a batch."""


class OutOfMemory(EngineError):  # noqa: N818 - the condition's usual name
    """A batch did not fit into the device's memory; a smaller `max_tokens` needs less."""


class NonFiniteError(InferenceError):
    """The model returned NaN or infinity; the message names the texts."""


class TruncationError(EmbedrtError):
    """A text is longer than the model reads, and the call has `on_truncation="error"`."""


class TruncationWarning(UserWarning):
    """A text is longer than the model reads, and the call has `on_truncation="warn"`."""


class PoolError(EmbedrtError):
    """A worker process died or did not start, or the pool is closed."""


class BulkError(EmbedrtError):
    """A bulk job cannot go on: a row cannot be read, something was changed, or another run uses the folder."""


class ExportError(EmbedrtError):
    """A model repo cannot be exported: a file is missing or damaged, or the weights do not match the config."""


class UnsupportedModelError(ExportError):
    """A model repo uses a feature that embedrt does not support; the message names it."""


class ParityError(EmbedrtError):
    """The bundle's vectors differ from the reference by more than the tolerance; the message lists the worst texts."""


class QualityError(EmbedrtError):
    """Vectors in a lossy dtype have a lower cosine similarity to float32 than allowed, or than measured at export."""


# The modules whose failures `except` clauses of embedrt expect, where no library is involved.
OWN = frozenset({"embedrt"}) | sys.stdlib_module_names
# Raised without a message by code, and by nobody as a deadline.
_OFTEN_BARE = (AssertionError, EOFError, MemoryError, RecursionError)


def is_raised_by(modules: Collection[str], error: BaseException) -> bool:
    """Return True if an exception that the calling function has caught is a failure of some modules.

    Otherwise it is an exception of the caller's program, which must pass: a signal handler or another thread may raise
    one at any moment. A handler in Python has a frame of its own in the traceback. An exception that another thread
    sets has no arguments, or a class of the caller's own. An interrupt is no `Exception`, as is a panic in Rust.

    Args:
        modules: Top-level modules, with those that define the exceptions of native code.
        error: The exception, inside `except`.
    """
    kind = type(error)
    if not isinstance(error, Exception) and kind.__name__ != "PanicException":
        return False
    if not error.args and not isinstance(error, _OFTEN_BARE):
        return False
    if kind.__module__.partition(".")[0] not in {"builtins", *modules}:
        return False
    below = error.__traceback__ and error.__traceback__.tb_next  # the first frame is the calling function's
    while below is not None:
        if str(below.tb_frame.f_globals.get("__name__")).partition(".")[0] not in modules:
            return False
        below = below.tb_next
    return True
