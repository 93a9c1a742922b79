"""Graphs in a narrow dtype of small models, without the rest of an export, and their vectors on a CPU."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from embedrt.bundle.manifest import Packing, Route
from embedrt.engine.session import plain_session
from embedrt.inputs.pairs import PairReading
from embedrt.inputs.text import TextTokenizer
from embedrt.run.batches import make_batch
from embedrt.types import LOGITS, SENTENCE, Vectors
from embedrt.verify.parity import Item
from embedrt_export.dtypes.float16.graphs import Written, write_graph
from embedrt_export.dtypes.float16.on_cpu import on_cpu
from embedrt_export.families import FAMILIES
from embedrt_export.graph.data_file import DataFile
from embedrt_export.options import ExportOptions
from embedrt_export.routes.decide import decide
from embedrt_export.routes.recognize import recognize
from embedrt_export.routes.repo import read_repo
from embedrt_export.routes.route import build_draft, build_route
from embedrt_export.source.locate import locate


@dataclass(frozen=True)
class Narrow:
    """A model in two graphs: the portable one in float32, and one in a narrow dtype.

    Attributes:
        folder: The folder with both.
        route: The route, with the portable graph.
        graph: The graph in the dtype.
        dtype: The dtype.
        written: Its layout.
        on_cpu: The graph in CPU operators.
        inputs: The inputs of that one.
    """

    folder: Path
    route: Route
    graph: Path
    dtype: str
    written: Written
    on_cpu: Path
    inputs: tuple[str, ...]

    @property
    def operators(self) -> Counter[str]:
        """The number of nodes by operator."""
        return Counter(node.op_type for node in onnx.load(self.graph, load_external_data=False).graph.node)

    def vectors(self, texts: Sequence[Item]) -> Vectors:
        """The vectors or logits in the dtype, of texts or pairs in one batch, from CPU operators with its rounding."""
        packing = self.written.packing
        if packing is not None:
            packing = dataclasses.replace(packing, inputs=self.inputs, scratch=None)
        return self._run(self.on_cpu, texts, packing)

    def portable_vectors(self, texts: Sequence[Item]) -> Vectors:
        """The vectors or logits in float32, from the portable graph."""
        return self._run(self.folder / self.route.variants[0].file, texts, None)

    def _run(self, graph: Path, texts: Sequence[Item], packing: Packing | None) -> Vectors:
        tokenization = self.route.tokenization
        tokenize = TextTokenizer(
            self.folder / self.route.tokenizer,
            max_seq_length=self.route.max_seq_length,
            with_type_ids=tokenization.token_type_ids,
        )
        pairs = [text for text in texts if isinstance(text, tuple)]
        tokens = PairReading().of(tokenize)(pairs) if pairs else tokenize([str(text) for text in texts])
        unpooled = 1 if tokenization.pooling_mask else 0
        batch = make_batch(tokens, np.arange(len(tokens)), int(tokens.lengths.max()), tokenization, packing, unpooled)
        vectors: Any = plain_session(graph).run([LOGITS if pairs else SENTENCE], dict(batch.feeds))[0]
        return vectors  # type: ignore[no-any-return]


def write_narrow(source: Path, folder: Path, dtype: str) -> Narrow:
    """Write a model's portable graph, and its graph in a dtype."""
    (folder / "onnx").mkdir(parents=True)
    located = locate(source, None, None, defer_weights=True)
    spec = read_repo(located.folder, recognize(located.folder).task, is_local=True, token=None)
    decisions = decide(spec, located, ExportOptions(), None)
    chain = spec.chains["default"]
    with DataFile(folder / "onnx" / "model.onnx_data") as data:
        built = build_route(folder, data, "default", chain, decisions)
    graph = folder / f"{dtype}.onnx"
    packs = FAMILIES[decisions.by_path[chain[0].path].family].packs
    with DataFile(folder / f"{dtype}.onnx_data") as data:
        build = partial(_draft, chain=chain, decisions=decisions)
        written = write_graph(graph, data, build, folder, dtype, packs=packs)
    target = folder / "cpu.onnx"
    with DataFile(folder / "cpu.onnx_data") as data:
        names = on_cpu(graph, target, data, dtype)
    return Narrow(folder, built.record, graph, dtype, written, target, tuple(names))


def _draft(file: Path, data: DataFile, layout: Any, *, chain: Any, decisions: Any) -> Any:
    return build_draft(file, data, chain, decisions, layout)
