"""Names of dtypes in bundles of format 2."""

_NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def stored_name(dtype: str | None) -> str:
    """The name that a bundle has for a dtype; None is float32."""
    return "fp32" if dtype is None else _NAMES.get(dtype, dtype)
