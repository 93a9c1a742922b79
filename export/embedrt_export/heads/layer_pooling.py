"""Weighted sum over the hidden states of several layers."""

from embedrt_export.graph.builder import GraphBuilder


def weighted_sum(graph: GraphBuilder, states: list[str], weights: list[float]) -> str:
    """Add the sum of equally shaped values, each times its weight."""
    terms = [graph.op("Mul", x, graph.scalar(weight)) for x, weight in zip(states, weights, strict=True)]
    return terms[0] if len(terms) == 1 else graph.op("Sum", *terms)
