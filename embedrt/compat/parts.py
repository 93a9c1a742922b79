"""Classes of the parts of a model, for `isinstance` checks: no model of embedrt consists of them."""

from typing import Any


class Module:
    """A part of a model."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        del arguments, options
        raise TypeError(
            f"{type(self).__name__}: embedrt runs exported models, and cannot build them from parts; build the model "
            "with sentence-transformers, save it, then `embedrt export`"
        )


class InputModule(Module):
    """A part that tokenizes."""


class Transformer(InputModule):
    """A transformer."""


class MLMTransformer(Transformer):
    """A transformer with the head of a masked language model."""


class CLIPModel(InputModule):
    """A model of texts and images."""


class StaticEmbedding(InputModule):
    """A table of token vectors."""


class SparseStaticEmbedding(InputModule):
    """A table of token weights."""


class BoW(InputModule):
    """A bag of words."""


class WordEmbeddings(InputModule):
    """A table of word vectors."""


class Router(InputModule):
    """A choice of parts for queries and for documents."""


Asym = Router


class CNN(Module):
    """A convolution."""


class Dense(Module):
    """A linear layer."""


class Dropout(Module):
    """A part that acts in training only."""


class LSTM(Module):
    """A recurrent layer."""


class LayerNorm(Module):
    """A layer normalization."""


class Normalize(Module):
    """A scaling to length 1."""


class Pooling(Module):
    """One vector of those of the tokens."""


class WeightedLayerPooling(Module):
    """A weighted mean of layers."""


class WordWeights(Module):
    """Weights of words."""


class SparseAutoEncoder(Module):
    """A sparse code of a dense vector."""


class SpladePooling(Module):
    """Weights of the vocabulary."""


class MultiVectorMask(Module):
    """A choice of tokens."""


class BaseTokenPooling(Module):
    """A clustering of token vectors."""


class LambdaTokenPooling(BaseTokenPooling):
    """A clustering by a function."""
