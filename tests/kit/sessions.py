"""Sessions of ONNX Runtime, counted where they are made."""

from typing import Any, NamedTuple

import onnxruntime
import pytest


class Made(NamedTuple):
    """A session of an engine."""

    threads: int
    prepack: bool


def prepacks(options: Any) -> bool:
    """False where the options keep weights as they are mapped."""
    try:
        disabled: str = options.get_session_config_entry("session.disable_prepacking")
    except RuntimeError:  # it was not set
        return True
    return disabled != "1"


def count_sessions(monkeypatch: pytest.MonkeyPatch) -> list[Made]:
    """A list that every session of an engine is added to; those of references leave the number of threads open."""
    made: list[Made] = []
    plain = onnxruntime.InferenceSession

    def counted(graph: Any, options: Any, **named: Any) -> Any:
        if options.intra_op_num_threads:
            made.append(Made(options.intra_op_num_threads, prepacks(options)))
        return plain(graph, options, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counted)
    return made
