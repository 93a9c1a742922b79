"""Centering, smoothing and reordering of activations at no cost: in the nodes that compute them.

A `LayerNormalization` takes center and smoothing into its weight and bias. Where its result is also the residual, that
gets its channels back, which costs as much as smoothing alone. The context of attention is a weighted mean of values,
so the linear layer of the values takes both. The hidden channels of a feed-forward network may have any order, so those
that exceed the range come first, where a slice reads them.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from embedrt_export.dtypes.int8.activations import Floats, Scheme
from embedrt_export.dtypes.int8.layer import Constant, LinearLayer, QuantizedLayer
from embedrt_export.graph.builder import names_read

# Functions of each value by itself, between two linear layers.
_ELEMENTWISE = frozenset({"Gelu", "Relu"})
# From a context back to the linear layer of its values: operators, with the input that leads on.
_CONTEXT = (("Reshape", 0), ("Transpose", 0), ("MatMul", 1), ("Transpose", 0), ("Reshape", 0))


@dataclass(frozen=True)
class Source:
    """The node that computes an activation, and can center and smooth it.

    Attributes:
        node: The name of a layer normalization, or of the linear layer of attention's values.
        weight: Weight of the normalization; None for a linear layer.
        bias: Its bias; None if it has none.
    """

    node: str
    weight: str | None = None
    bias: str | None = None


@dataclass(frozen=True)
class Absorbed:
    """A graph whose activations are centered, smoothed and reordered where they are computed.

    Attributes:
        nodes: Its nodes.
        layers: The quantized linear layers, by node.
        names: Centered and smoothed values, by the name of the activation.
    """

    nodes: list[onnx.NodeProto]
    layers: Mapping[str, tuple[LinearLayer, QuantizedLayer]]
    names: Mapping[str, str]


def find_sources(model: onnx.ModelProto, layers: Iterable[LinearLayer]) -> dict[str, Source]:
    """Find the activations of linear layers that can be centered and smoothed where they are computed.

    Returns:
        Sources by the name of the activation.
    """
    layers = list(layers)
    makers = {name: node for node in model.graph.node for name in node.output}
    reads = _reads(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    by_output = {layer.y: layer.node for layer in layers}
    found = {}
    for x in dict.fromkeys(layer.x for layer in layers):
        node = makers.get(x)
        if node is None:
            continue
        if node.op_type == "LayerNormalization" and constants.issuperset(node.input[1:]):
            found[x] = Source(node.name, *node.input[1:])
        elif (values := _values_of(x, makers, reads)) in by_output:
            found[x] = Source(by_output[values])
    return found


def _reads(model: onnx.ModelProto) -> Counter[str]:
    reads = Counter(name for node in model.graph.node for name in names_read(node))
    reads.update(output.name for output in model.graph.output)
    return reads


def _values_of(context: str, makers: Mapping[str, onnx.NodeProto], reads: Counter[str]) -> str:
    """The values of an attention, where each has one reader; "" if `context` is none."""
    name = context
    for op_type, position in _CONTEXT:
        node = makers.get(name)
        if node is None or node.op_type != op_type or (name != context and reads[name] != 1):
            return ""
        name = node.input[position]
        if op_type == "Transpose" and helper.get_attribute_value(node.attribute[0]) != [0, 2, 1, 3]:
            return ""
        if op_type == "MatMul" and makers[node.input[0]].op_type != "Softmax":
            return ""
    return name if reads[name] == 1 else ""


def absorb(
    model: onnx.ModelProto,
    layers: Mapping[str, tuple[LinearLayer, QuantizedLayer]],
    sources: Mapping[str, Source],
    read: Callable[[str], Floats],
    constant: Constant,
) -> Absorbed:
    """Center, smooth and reorder activations in the nodes that compute them.

    Args:
        model: The graph.
        layers: The layers to quantize, by node.
        sources: The result of `find_sources`.
        read: Reads the values of a tensor.
        constant: Adds a tensor to the graph.
    """
    changed = _Changed(model, dict(layers), constant)
    for x, scheme in {layer.x: quantized.scheme for layer, quantized in layers.values()}.items():
        if len(scheme.outliers):
            changed.outliers_to_front(x, scheme)
        source = sources.get(x)
        if scheme.center is None or source is None:
            continue
        if source.weight is None:
            changed.context(x, scheme, source)
        else:
            changed.norm(x, scheme, source, read)
    return Absorbed(changed.nodes(), changed.layers, changed.names)


class _Changed:
    """A graph whose activations are centered and smoothed one after the other."""

    def __init__(
        self, model: onnx.ModelProto, layers: dict[str, tuple[LinearLayer, QuantizedLayer]], constant: Constant
    ) -> None:
        self.layers = layers
        self.names: dict[str, str] = {}
        self._constant = constant
        self._nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
        self._after: dict[str, list[onnx.NodeProto]] = {}
        self._outputs = {output.name for output in model.graph.output}
        self._reads = _reads(model)

    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes, in an order in which they can be computed."""
        return [one for node in self._nodes for one in (node, *self._after.get(node.name, ()))]

    def context(self, x: str, scheme: Scheme, source: Source) -> None:
        """Center and smooth a context by the layer of its values, if nobody else reads it and both are quantized."""
        if source.node not in self.layers or any(node.name not in self.layers for node in self._readers(x)):
            return
        center, smoothing = _vectors(scheme)
        layer, values = self.layers[source.node]
        self.layers[source.node] = (
            layer,
            dataclasses.replace(
                values,
                scales=values.scales / smoothing,
                bias=(values.bias - center) / smoothing,
                outliers=values.outliers / smoothing,
            ),
        )
        self.names[x] = x

    def norm(self, x: str, scheme: Scheme, source: Source, read: Callable[[str], Floats]) -> None:
        """Center and smooth the result of a layer normalization, and give other readers what they had."""
        center, smoothing = _vectors(scheme)
        bias = np.zeros_like(center) if source.bias is None else read(source.bias)
        smooth = f"{x}.smooth"
        others = [node for node in self._readers(x) if node.name not in self.layers]
        (norm,) = (node for node in self._nodes if node.name == source.node)
        norm.input[1:] = [
            self._constant(f"{x}.weight", read(str(source.weight)) / smoothing),
            self._constant(f"{x}.bias", (bias - center) / smoothing),
        ]
        norm.output[:] = [smooth]
        self.names[x] = smooth
        if not others and x not in self._outputs:
            return
        scaled = f"{x}.scaled"
        factor = self._constant(f"{x}.smoothing", smoothing)
        restored = [helper.make_node("Mul", [smooth, factor], [scaled], name=scaled)]
        rest = [node for node in others if not self._add_to_bias(node, x, scaled, center)]
        if rest or x in self._outputs:
            added = [scaled, self._constant(f"{x}.center", center)]
            restored.append(helper.make_node("Add", added, [x], name=f"{x}.restored"))
        self._after[norm.name] = restored

    def outliers_to_front(self, x: str, scheme: Scheme) -> None:
        """Reorder the channels between two linear layers; pairs of channels stay pairs."""
        readers = [self.layers.get(node.name) for node in self._readers(x)]
        makers = {name: node for node in self._nodes for name in node.output}
        made = makers.get(x)
        if made is None or made.op_type not in _ELEMENTWISE or None in readers or x in self._outputs:
            return
        before = next((one for one in self.layers.values() if one[0].y == made.input[0]), None)
        if before is None or self._reads[before[0].y] != 1:
            return
        order = np.concatenate([scheme.outliers, np.delete(np.arange(len(before[1].bias)), scheme.outliers)])
        layer, quantized = before
        self.layers[layer.node] = (
            layer,
            dataclasses.replace(
                quantized,
                levels=quantized.levels[:, order],
                scales=quantized.scales[order],
                bias=quantized.bias[order],
                outliers=quantized.outliers[:, order],
            ),
        )
        first = dataclasses.replace(scheme, outliers=np.arange(len(scheme.outliers)))
        for node in self._readers(x):
            layer, quantized = self.layers[node.name]
            self.layers[node.name] = (
                layer,
                dataclasses.replace(quantized, scheme=first, levels=quantized.levels[order]),
            )

    def _add_to_bias(self, node: onnx.NodeProto, x: str, scaled: str, center: Floats) -> bool:
        """Read `scaled` for `x` in a sum with the output of a quantized layer, whose bias takes the center."""
        if node.op_type != "Add" or list(node.input).count(x) != 1:
            return False
        (y,) = (name for name in node.input if name != x)
        for at, (layer, quantized) in self.layers.items():
            if layer.y == y and self._reads[y] == 1:
                self.layers[at] = (layer, dataclasses.replace(quantized, bias=quantized.bias + center))
                node.input[list(node.input).index(x)] = scaled
                return True
        return False

    def _readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self._nodes if name in names_read(node)]


def _vectors(scheme: Scheme) -> tuple[Floats, Floats]:
    """Center and smoothing of a scheme that has both."""
    if scheme.center is None or scheme.smoothing is None:
        raise ValueError("expected a scheme with center and smoothing")
    return scheme.center, scheme.smoothing
