"""Every error that embedrt raises by itself. Wrong arguments raise the built-in ValueError and TypeError."""


class EmbedrtError(Exception):
    """Root of the tree: `except EmbedrtError` catches all that can go wrong apart from wrong arguments."""


class MissingDependencyError(EmbedrtError, ImportError):
    """An optional package is not installed; the message has the line that installs it."""


class ModelNotFoundError(EmbedrtError):
    """A model name leads to no bundle here, or the hub did not give the model; the message says what to run."""


class BundleError(EmbedrtError):
    """A bundle is damaged, incomplete, of another format version or not a bundle at all."""


class EmbeddingsError(EmbedrtError):
    """A file of embeddings is damaged or of another kind, or its vectors are of another model than the one given."""


class UploadError(EmbedrtError):
    """The hub did not take an upload; the message says what to do."""


class DeviceError(EmbedrtError):
    """The device asked for is unknown here, or ONNX Runtime did not use its execution provider."""


class InferenceError(EmbedrtError):
    """The tokenizer or ONNX Runtime failed on a valid input."""


class EngineError(InferenceError):
    """ONNX Runtime failed on a batch."""


class OutOfMemory(EngineError):  # noqa: N818 - the condition's usual name
    """A batch did not fit into the device's memory; a smaller `max_tokens` needs less."""


class NonFiniteError(InferenceError):
    """The model returned NaN or infinity; the message names the texts."""


class TruncationError(EmbedrtError):
    """A text is longer than the model reads and the caller asked for `on_truncation="error"`."""


class TruncationWarning(UserWarning):
    """A text is longer than the model reads and the caller asked for `on_truncation="warn"`."""


class PoolError(EmbedrtError):
    """A process of a pool died or could not be started, or the pool is closed."""


class ExportError(EmbedrtError):
    """A model repo cannot be exported: a file is missing or damaged, or its weights do not fit its config."""


class UnsupportedModelError(ExportError):
    """A model repo uses something that embedrt does not know; the message names it."""


class ParityError(EmbedrtError):
    """The bundle's vectors differ from the reference by more than the tolerance; the message has the worst texts."""


class QualityError(EmbedrtError):
    """The vectors of a lossy precision are further from those in float32 than is allowed, or than where it was made."""
