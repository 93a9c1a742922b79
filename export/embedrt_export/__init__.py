"""The exporter of embedrt: from a model folder to a bundle, without torch. `embedrt export` on the command line."""

from embedrt.errors import MissingDependencyError

try:
    from embedrt_export.pipeline import export
    from embedrt_export.proof.reference import verify_with_sentence_transformers
    from embedrt_export.source.locate import model_folder
except ModuleNotFoundError as error:
    if error.name in {"onnx", "safetensors", "ml_dtypes"}:
        raise MissingDependencyError(
            f"exporting needs the package {error.name}, which is not installed; run `pip install 'embedrt[export]'`"
        ) from error
    raise

__all__ = ["export", "model_folder", "verify_with_sentence_transformers"]
