"""Cutting a recorded product into what runs once a batch and what runs once a product."""

import operator
from dataclasses import dataclass

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from saddlescope.curvature.products.convolutions import convolution
from saddlescope.curvature.products.graphs import TraceError, overwrites


@dataclass(frozen=True)
class Division:
    """Hold a recorded product, divided by what runs when.

    Attributes:
        forward: inputs and batch size -> loss and what crosses to the others.
        exact_forward: the same for inputs in float64; what crosses is rounded to float32 at
            once. None where a recording allows no such change of precision.
        backward: inputs, batch size and what crossed -> gradients and what the tangent keeps.
        tangent: what was kept and a direction -> the product.
    """

    forward: GraphModule
    exact_forward: GraphModule | None
    backward: GraphModule
    tangent: GraphModule


def divide(module: GraphModule, *, first_direction: int) -> Division:
    """Divide a graph (inputs, direction, batch size) -> (loss, gradients, product).

    What depends on the direction is the tangent; of the rest, what the loss depends on is the
    forward part, and what remains the backward part.
    """
    nodes = list(module.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    directions = placeholders[first_direction:-1]
    inputs = [node for node in placeholders if node not in set(directions)]
    (output,) = (node for node in nodes if node.op == "output")
    results = list(output.args[0])
    count = len(directions)
    loss, gradients, products = results[0], results[1:-count], results[-count:]

    moving = _moving(nodes, directions)
    kept: dict[Node, None] = {}
    for node in nodes:
        if node in moving:
            kept |= {source: None for source in node.all_input_nodes if source not in moving}
    kept |= {node: None for node in products if node not in moving}

    still = [node for node in nodes if node.op == "call_function" and node not in moving]
    early = _leading_to(loss, still)
    late = [node for node in still if node not in early]
    read = {source for node in late for source in node.all_input_nodes} | {*kept, *gradients}
    crossing = [node for node in still if node in early and node in read]

    forward = _part(inputs, [node for node in still if node in early], [loss, *crossing])
    backward = _part([*inputs, *crossing], late, [*gradients, *kept])
    tangent = _part(
        [*kept, *directions],
        [node for node in nodes if node in moving and node.op == "call_function"],
        products,
    )
    # A tensor that is written into may not be replaced by a rounded copy of itself.
    fixed = not any(overwrites(node) for node in still)
    return Division(
        forward=GraphModule(module, forward),
        exact_forward=GraphModule(module, _in_double(forward)) if fixed else None,
        backward=GraphModule(module, backward),
        tangent=GraphModule(module, tangent),
    )


def _part(inputs: list[Node], body: list[Node], results: list[Node]) -> Graph:
    """The graph inputs -> results that runs these nodes."""
    graph, copied = Graph(), {}
    for node in inputs:
        copied[node] = graph.placeholder(node.name)
        copied[node].meta = node.meta
    for node in body:
        copied[node] = graph.node_copy(node, lambda source: copied[source])
    graph.output(tuple(copied[node] for node in results))
    return graph


def _leading_to(loss: Node, still: list[Node]) -> set[Node]:
    """What the loss depends on, and the other results of the same operations."""
    early = {loss}
    for node in reversed(still):
        if node in early:
            early.update(node.all_input_nodes)
    for node in still:
        if node.target is operator.getitem and node.args[0] in early:
            early.add(node)
    return early


def _in_double(graph: Graph) -> Graph:
    """The same computation in float64, its results (but for the loss) rounded to float32."""
    double, copied = Graph(), dict[Node, Node]()
    double.graph_copy(graph, copied)
    for node in double.nodes:
        if node.op == "call_function":
            if node.target is torch.ops.aten.convolution.default:
                node.target = convolution
            node.args, node.kwargs = pytree.tree_map(
                lambda value: torch.float64 if value is torch.float32 else value,
                (node.args, node.kwargs),
            )
    (end,) = (node for node in graph.nodes if node.op == "output")
    loss, *crossing = end.args[0]
    rounded: list[Node] = []
    for node in crossing:
        copy, value = copied[node], node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.dtype is torch.float32:
            layout = {}
            if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
                layout = {"memory_format": torch.channels_last}
            with double.inserting_after(copy):
                copy = double.call_function(
                    torch.ops.aten._to_copy.default, (copy,), {"dtype": torch.float32, **layout}
                )
        rounded.append(copy)
    double.output((copied[loss], *rounded))
    return double


def _moving(nodes: list[Node], directions: list[Node]) -> set[Node]:
    """Everything that depends on a direction, by reading it or by being written from it."""
    moving: set[Node] = set(directions)
    before = 0
    while len(moving) != before:
        before = len(moving)
        for node in nodes:
            if node.op == "call_function" and not moving.isdisjoint(node.all_input_nodes):
                moving.add(node)
                target = node.args[0] if overwrites(node) else None
                if isinstance(target, Node) and target not in moving:
                    # Made once and overwritten by every product: make it anew each time.
                    if target.op == "placeholder":
                        raise TraceError("the model writes into a tensor that outlives the product")
                    moving.add(target)
    return moving
