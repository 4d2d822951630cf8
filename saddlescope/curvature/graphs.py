"""Surgery on recorded graphs: what `tracing` needs of torch.fx, without any mathematics.

A recorded gradient is cleaned, freed from the batch size it was recorded at, and divided into
three parts that run at different times (`divide`).
"""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

_IDENTITIES = (torch.ops.aten.alias.default, torch.ops.aten.detach.default)


class TraceError(Exception):
    """This model cannot be traced; the message says why."""


def cleaned(module: GraphModule) -> GraphModule:
    """Drop operations without effect and those nobody reads (convolutions that were folded)."""
    graph = module.graph
    written = {
        node.args[0]
        for node in graph.nodes
        if node.op == "call_function" and _overwrites(node) and isinstance(node.args[0], Node)
    }
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _IDENTITIES:
            source = node.args[0]
            if isinstance(source, Node) and not {node, source} & written:
                node.replace_all_uses_with(source)
                graph.erase_node(node)
    if any(node.op == "get_attr" for node in graph.nodes):
        raise TraceError("the model makes tensors of its own that are neither buffer nor parameter")
    graph.eliminate_dead_code(
        is_impure_node=lambda node: node.op in ("placeholder", "output") or _overwrites(node)
    )
    return module


def _overwrites(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def free_batch_size(graph: Graph, other: Graph, sizes: tuple[int, int]) -> None:
    """Replace what two recordings at different sizes disagree on by the size itself."""
    nodes, others = list(graph.nodes), list(other.nodes)
    if [(n.op, n.target) for n in nodes if n.op != "placeholder"] != [
        (n.op, n.target) for n in others if n.op != "placeholder"
    ]:
        raise TraceError("the operations depend on the batch size")
    last = [node for node in nodes if node.op == "placeholder"][-1]
    with graph.inserting_after(last):
        size = graph.placeholder("batch_size")
    anchor = size
    multiples: dict[Any, Node] = {}
    for node, twin in zip(nodes, others, strict=True):
        mine, spec = pytree.tree_flatten((node.args, node.kwargs))
        theirs, other_spec = pytree.tree_flatten((twin.args, twin.kwargs))
        if spec != other_spec:
            raise TraceError("the operations depend on the batch size")
        changed = False
        for index, (one, two) in enumerate(zip(mine, theirs, strict=True)):
            if isinstance(one, Node) or one == two or _both_nan(one, two):
                continue
            key = _proportion(one, two, sizes)
            if key not in multiples:
                with graph.inserting_after(anchor):
                    rule, factor = key
                    order = (size, factor) if rule is operator.mul else (factor, size)
                    anchor = multiples[key] = graph.call_function(rule, order)
            mine[index], changed = multiples[key], True
        if changed:
            node.args, node.kwargs = pytree.tree_unflatten(mine, spec)
    graph.lint()


def _both_nan(one: Any, two: Any) -> bool:
    return isinstance(one, float) and isinstance(two, float) and one != one and two != two


def _proportion(one: Any, two: Any, sizes: tuple[int, int]) -> tuple[Any, Any]:
    """How a number follows the batch size: (mul, k) for k·n, (truediv, k) for k/n."""
    small, large = sizes
    if type(one) is type(two) and isinstance(one, int | float) and not isinstance(one, bool):
        if one * large == two * small and (isinstance(one, float) or one % small == 0):
            return operator.mul, one // small if isinstance(one, int) else one / small
        if isinstance(one, float) and abs(one * small - two * large) <= 1e-12 * abs(one):
            return operator.truediv, one * small
    raise TraceError(f"a number depends on the batch size in an unknown way ({one!r}, {two!r})")


@dataclass(frozen=True)
class Division:
    """A recorded product, divided by what runs when.

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
    fixed = not any(_overwrites(node) for node in still)
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
                target = node.args[0] if _overwrites(node) else None
                if isinstance(target, Node) and target not in moving:
                    # Made once and overwritten by every product: make it anew each time.
                    if target.op == "placeholder":
                        raise TraceError("the model writes into a tensor that outlives the product")
                    moving.add(target)
    return moving
