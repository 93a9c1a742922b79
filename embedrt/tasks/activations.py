"""Activations: functions from the logits of pairs to scores, by name, or of the caller."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.inputs.values import shown
from embedrt.types import ACTIVATIONS
from embedrt.vectors.torch_tensors import torch

Scores = NDArray[np.float32]
Activation = Callable[[Any], Any]


def sigmoid(x: Scores) -> Scores:
    """The logistic function."""
    small = np.exp(-np.abs(x))
    values: Scores = np.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
    return values


def softmax(x: Scores) -> Scores:
    """Numbers that add up to 1 in every row."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    values: Scores = powers / powers.sum(axis=-1, keepdims=True)
    return values


def _log_softmax(x: Scores) -> Scores:
    shifted = x - x.max(axis=-1, keepdims=True)
    values: Scores = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return values


def _softplus(x: Scores) -> Scores:
    values: Scores = (np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))).astype(np.float32)
    return values


def _gelu(x: Scores) -> Scores:
    halves = [0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x.ravel().tolist()]
    return np.array(halves, np.float32).reshape(x.shape)


_FUNCTIONS: Mapping[str, Callable[[Scores], Scores]] = {
    "Identity": lambda x: x,
    "Sigmoid": sigmoid,
    "Tanh": np.tanh,
    "Softmax": softmax,
    "LogSoftmax": _log_softmax,
    "LogSigmoid": lambda x: -_softplus(-x),
    "ReLU": lambda x: np.maximum(x, np.float32(0)),
    "GELU": _gelu,
    "SiLU": lambda x: x * sigmoid(x),
    "Softplus": _softplus,
}


@dataclass(frozen=True)
class NamedActivation:
    """An activation that bundles and callers name.

    Attributes:
        name: The name that torch has for it, such as "Sigmoid".
    """

    name: str

    def __call__(self, logits: Scores) -> Scores:
        """Apply it to logits, float32 `[pairs, labels]`."""
        return _FUNCTIONS[self.name](logits)


def find_activation(value: Any) -> Activation:
    """The activation of a name or a function.

    Args:
        value: A name, such as "Sigmoid" or "torch.nn.modules.activation.Sigmoid"; or a function of an array. A function
            or module of torch gets a tensor.

    Raises:
        TypeError: The value is neither a name nor a function.
        ValueError: The name is unknown; the message lists the valid ones.
    """
    if isinstance(value, str):
        name = value.rpartition(".")[2]
        found = next((known for known in ACTIVATIONS if known.lower() == name.lower()), None)
        if found is None:
            raise ValueError(f"activation_fn: expected one of {', '.join(ACTIVATIONS)}, or a function, got {value!r}")
        return NamedActivation(found)
    if not callable(value) or isinstance(value, type):
        remedy = "; pass an object of the class" if isinstance(value, type) else ""
        raise TypeError(f"activation_fn: expected a name or a function, got {shown(value)}{remedy}")
    activation: Activation = value
    return activation


def activate(logits: Scores, activation: Activation) -> Any:
    """Apply an activation to the logits of a call, float32 `[pairs, labels]`; returns an array.

    Raises:
        ValueError: The result does not have a row for every pair.
    """
    if _is_of_torch(activation):
        tensor = activation(torch().from_numpy(logits))
        values = np.asarray(tensor.detach().float().cpu().numpy())
    else:
        values = np.asarray(activation(logits))
    if values.dtype != np.float32:
        values = values.astype(np.float32)
    if values.ndim == 0 or len(values) != len(logits):
        raise ValueError(
            f"activation_fn: expected a result with {len(logits)} rows, one for each pair, got shape "
            f"{list(values.shape)}"
        )
    return values


def _is_of_torch(activation: Activation) -> bool:
    """Return True for functions of torch, and for objects of torch's modules or of classes that derive from them."""
    kinds = (activation, *type(activation).__mro__)
    return any((getattr(kind, "__module__", None) or "").partition(".")[0] == "torch" for kind in kinds)
