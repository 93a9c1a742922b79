"""The classes of sentence-transformers: those of embedrt by their names there.

Libraries such as BERTopic and KeyBERT recognize a model by "sentence_transformers" in the name of its type.
"""

from embedrt.cross_encoder import CrossEncoder as _CrossEncoder
from embedrt.embedder import Embedder
from embedrt.multi_vector_encoder import MultiVectorEncoder as _MultiVectorEncoder
from embedrt.sparse_encoder import SparseEncoder as _SparseEncoder


class SentenceTransformer(Embedder):
    """`embedrt.Embedder` by its name in sentence-transformers."""


class CrossEncoder(_CrossEncoder):
    """`embedrt.CrossEncoder` for programs that import it from sentence-transformers."""


class SparseEncoder(_SparseEncoder):
    """`embedrt.SparseEncoder` for programs that import it from sentence-transformers."""


class MultiVectorEncoder(_MultiVectorEncoder):
    """`embedrt.MultiVectorEncoder` for programs that import it from sentence-transformers."""
