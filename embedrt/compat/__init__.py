"""A module `sentence_transformers` made of embedrt, for programs that import that name."""

from embedrt.compat.module import install, is_active, real_environment

__all__ = ["install", "is_active", "real_environment"]
