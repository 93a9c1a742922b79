"""Dropout, which does nothing after the training."""

from dataclasses import dataclass
from functools import partial

from embedrt_export.heads.head import Head, HeadInputs, HeadOutputs, read_optional_settings


@dataclass(frozen=True)
class Dropout:
    """Settings of a Dropout module."""

    dropout: float = 0.2


def add(inputs: HeadInputs, settings: Dropout) -> HeadOutputs:
    """Add nothing."""
    del inputs, settings
    return HeadOutputs({})


HEAD = Head(partial(read_optional_settings, Dropout), add)
