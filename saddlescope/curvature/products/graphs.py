"""Surgery on recorded graphs: what `tracing` needs of torch.fx, without any mathematics.

A recorded gradient is cleaned and freed from the batch size it was recorded at; `division` then
cuts it into parts that run at different times.
"""

import math
import operator
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

_IDENTITIES = (torch.ops.aten.alias.default, torch.ops.aten.detach.default)
_ZEROS = (
    torch.ops.aten.zeros_like.default,
    torch.ops.aten._new_zeros_with_same_feature_meta.default,
    torch.ops.aten.zeros.default,
)


class TraceError(Exception):
    """Say why this model cannot be traced."""


class RecordingError(TraceError):
    """Say that it cannot even be recorded, at whatever batch size."""


def cleaned(module: GraphModule, *, after: int) -> tuple[GraphModule, list[torch.Tensor]]:
    """Drop operations without effect and those nobody reads (convolutions that were folded).

    Tensors that are neither buffer nor parameter (one kept on a module as it is, one that the
    criterion closes over) become inputs of the graph.

    Args:
        module: a recording.
        after: number of the inputs that they follow.

    Returns:
        The recording, and the values of these inputs.
    """
    graph = module.graph
    constants = _lifted(module, after)
    # First, so that what they write into counts as unwritten below.
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._efficientzerotensor.default:
            node.target = torch.ops.aten.zeros.default  # one that has memory to be kept in
        if _fills_fresh_zeros(node):
            _replace(node, node.args[1])
    written = {node.args[0] for node in graph.nodes if overwrites(node)}
    for node in list(graph.nodes):
        source = _same_value(node)
        if source is not None and not {node, source} & written:
            _replace(node, source)
    graph.eliminate_dead_code(
        is_impure_node=lambda node: node.op in ("placeholder", "output") or overwrites(node)
    )
    return module, constants


def _lifted(module: GraphModule, after: int) -> list[torch.Tensor]:
    """Make inputs of a recording's constants; returns their values."""
    graph = module.graph
    last = [node for node in graph.nodes if node.op == "placeholder"][after - 1]
    values: dict[str, tuple[torch.Tensor, Node]] = {}
    for node in list(graph.nodes):
        if node.op != "get_attr":
            continue
        name = str(node.target)
        if name not in values:
            value = getattr(module, name)
            if not isinstance(value, torch.Tensor):
                raise TraceError(f"the recording holds {name}, which is no tensor")
            with graph.inserting_after(last):
                last = graph.placeholder(f"constant{name}")
            last.meta["val"] = value
            values[name] = value.detach(), last
        _replace(node, values[name][1])
    return [value for value, _ in values.values()]


def overwrites(node: Node) -> bool:
    """Return whether an operation writes into its first argument."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


def _replace(node: Node, source: Any) -> None:
    node.replace_all_uses_with(source)
    node.graph.erase_node(node)


def _fills_fresh_zeros(node: Node) -> bool:
    """A copy into zeros made for it: how forward-mode AD gives a tangent its primal's layout."""
    if node.op != "call_function" or node.target is not torch.ops.aten.copy_.default:
        return False
    zeros, source = node.args[:2]
    return (
        isinstance(zeros, Node)
        and _is_zeros(zeros)
        and len(zeros.users) == 1
        and _alike(zeros, source)
    )


def _same_value(node: Node) -> Node | None:
    """An input that equals this node's result, if there is one."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return None
    source = node.args[0]
    if node.target in _IDENTITIES:
        return source
    if node.target in (torch.ops.aten.expand.default, torch.ops.aten._to_copy.default):
        return source if _alike(node, source) and "memory_format" not in node.kwargs else None
    if node.target is torch.ops.aten.add.Tensor and not node.kwargs:
        for zeros, other in (node.args[:2], node.args[1::-1]):
            if _is_zeros(zeros) and isinstance(other, Node) and _alike(node, other):
                return other
    return None


def _is_zeros(node: Any) -> bool:
    return isinstance(node, Node) and node.op == "call_function" and node.target in _ZEROS


def _alike(one: Node, two: Any) -> bool:
    """Tensors of one shape, layout, type and device: either may be viewed as the other is."""
    first, second = one.meta.get("val"), two.meta.get("val") if isinstance(two, Node) else None
    if not (isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)):
        return False
    return all(
        getattr(first, kind) == getattr(second, kind) for kind in ("shape", "dtype", "device")
    ) and (first.stride() == second.stride())


def free_batch_size(graph: Graph, prime: int) -> None:
    """Replace the numbers that follow the batch size in a graph by the size itself.

    Args:
        graph: a recording at a prime batch size, whose multiples are taken to follow it.
        prime: that size.
    """
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    with graph.inserting_after(last):
        size = anchor = graph.placeholder("batch_size")
    multiples: dict[Any, Node] = {}
    for node in list(graph.nodes):
        values, spec = pytree.tree_flatten((node.args, node.kwargs))
        keys = [None if isinstance(value, Node) else _multiple(value, prime) for value in values]
        for index, key in enumerate(keys):
            if key is None:
                continue
            if key not in multiples:
                with graph.inserting_after(anchor):
                    rule, factor = key
                    order = (size, factor) if rule is operator.mul else (factor, size)
                    anchor = multiples[key] = graph.call_function(rule, order)
            values[index] = multiples[key]
        if any(keys):
            node.args, node.kwargs = pytree.tree_unflatten(values, spec)
    graph.lint()


def _multiple(number: Any, prime: int) -> tuple[Any, Any] | None:
    """How a number follows the batch size: (mul, k) for k·n, (truediv, k) for k/n, or not."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    if not number or not math.isfinite(number):
        return None
    if number % prime == 0:
        return operator.mul, type(number)(number // prime)
    if isinstance(number, float) and number % 1.0 != 0.0:
        factor = number * prime
        if abs(factor - round(factor)) <= 1e-12 * abs(factor):
            return operator.truediv, factor
    return None
