"""From drafts to graphs in a narrow dtype: packed where there are operators for it, else padded."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx

from embedrt.bundle.manifest import Packing
from embedrt_export.dtypes.float16 import packed
from embedrt_export.dtypes.float16.packed import NoPackedFormError
from embedrt_export.dtypes.float16.values import Region, Values
from embedrt_export.dtypes.float16.write import ELEMENTS, Weight, typed_nodes, write
from embedrt_export.graph.builder import FLOAT, Layout
from embedrt_export.graph.data_file import DataFile
from embedrt_export.graph.fuse_cpu import fuse
from embedrt_export.routes.route import DraftGraph

logger = logging.getLogger("embedrt.export")

BuildDraft = Callable[[Path, DataFile, Layout], DraftGraph]
"""Writes a draft of a route in a layout."""


@dataclass(frozen=True)
class Written:
    """A graph that was written.

    Attributes:
        layout: Its layout.
        packing: The inputs of a packed graph; None for a padded one.
    """

    layout: Layout
    packing: Packing | None


def write_graph(file: Path, data: DataFile, build: BuildDraft, scratch: Path, dtype: str, *, packs: bool) -> Written:
    """Write a graph in a narrow dtype.

    Args:
        file: The file to write.
        data: File for its weights, beside it.
        build: Writes the draft.
        scratch: A folder for drafts, which take as much room as the model in float32.
        dtype: The dtype of the hidden states.
        packs: True if the family has a packed form.

    Raises:
        OverflowError: A weight is beyond the dtype's range.
    """
    if packs:
        with _draft(build, scratch, "packed") as draft:
            try:
                return _write_packed(file, data, draft, dtype)
            except NoPackedFormError as error:
                logger.info("%s: the graph is padded: %s", dtype, error)
    with _draft(build, scratch, "padded") as draft:
        return _write_padded(file, data, draft, dtype)


@contextmanager
def _draft(build: BuildDraft, scratch: Path, layout: Layout) -> Iterator[DraftGraph]:
    file = scratch / f"{layout}.onnx"
    with DataFile(scratch / f"{layout}.onnx_data") as data:
        yield build(file, data, layout)
    for path in (file, scratch / data.name):
        path.unlink()


def _write_packed(file: Path, data: DataFile, draft: DraftGraph, dtype: str) -> Written:
    model = onnx.load(draft.file, load_external_data=False)
    values, element = Values(model, draft.file.parent), ELEMENTS[dtype]
    lowered = packed.lower(values, dtype)

    def region(node: onnx.NodeProto) -> Region:
        return values.region_read(node) if node.name in lowered.copied else "hidden"

    nodes = typed_nodes(lowered.nodes, region, values, element)
    arrays = _constants(values) | lowered.constants
    inputs = packed.input_values(lowered, element)
    names = write(file, data, nodes, inputs, _outputs(values, element), arrays, dtype)
    return Written("packed", Packing(names, draft.padding_id, lowered.length_step, lowered.scratch))


def _write_padded(file: Path, data: DataFile, draft: DraftGraph, dtype: str) -> Written:
    model = onnx.load(draft.file, load_external_data=False)
    fused = fuse(model) or model
    values, element = Values(fused, draft.file.parent), ELEMENTS[dtype]
    nodes = typed_nodes(values.nodes, values.region_read, values, element)
    write(file, data, nodes, fused.graph.input, _outputs(values, element), _constants(values), dtype)
    return Written("padded", None)


def _constants(values: Values) -> dict[str, Weight]:
    return {name: partial(values.array, name) for name in values.constants}


def _outputs(values: Values, element: int) -> list[onnx.ValueInfoProto]:
    """The outputs of a draft, with their dtype."""
    outputs = []
    for output in values.model.graph.output:
        described = onnx.ValueInfoProto()
        described.CopyFrom(output)
        is_hidden = values.regions[output.name] == "hidden"
        described.type.tensor_type.elem_type = element if is_hidden else FLOAT
        outputs.append(described)
    return outputs
