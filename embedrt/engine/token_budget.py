"""Token budget of packed batches on a GPU, by the size of the model and the memory that is free."""

from math import log2

SMALLEST, LARGEST = 4096, 65536
# MiniLM in float16: 45 MB run fastest from 32k tokens on. A model with n times the weights computes some n times as
# long on a token, but also fills the GPU with fewer: the budget falls with the square root of n.
_WEIGHTS, _TOKENS = 45e6, 32768
# Bytes that a token of this model takes while it is computed; a wider model has them on a few layers at a time only, so
# that they grow with the third root of the weights.
_TOKEN_BYTES = 8192
# Two batches are computed at once, and an arena may hold each twice.
_SHARE = 4
# Sessions with kernels of their own for short and for long texts have weights of their own.
_COPIES = 2
# In so little memory the batch that fits is found by trying.
_FEWEST = 256


def token_budget(weights_bytes: int, free_bytes: int | None = None) -> int:
    """Tokens of a batch that keep a GPU busy for a few milliseconds and fit into its memory: a power of two.

    Args:
        weights_bytes: Size of the weights in their dtype, of 2 bytes each.
        free_bytes: Memory for the model; None if it is unknown.
    """
    size = max(1, weights_bytes) / _WEIGHTS
    budget: int = 1 << round(log2(_TOKENS / size**0.5))
    budget = min(max(budget, SMALLEST), LARGEST)
    if free_bytes is not None:
        room = max(0, free_bytes - _COPIES * weights_bytes) / (_SHARE * token_bytes(weights_bytes))
        while budget > max(room, _FEWEST):
            budget //= 2
    return budget


def token_bytes(weights_bytes: int) -> int:
    """Bytes of memory that one token of a batch takes: about 8 kB for 45 MB of weights, 20 kB for 670 MB."""
    return int(_TOKEN_BYTES * max(1.0, weights_bytes / _WEIGHTS) ** (1 / 3))
