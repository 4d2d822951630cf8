"""One traced Hessian-vector product for a whole job: forward over reverse, split in two.

The gradient of a batch's loss is run once on dual numbers (forward-mode AD over reverse-mode)
and recorded as a graph of tensor operations whose inputs are the parameters, the buffers, the
batch and the direction v. Then

- what does not depend on v (the primal: activations, the gradient) runs once a batch,
- what depends on v (the tangent) runs once a product: 2 gradients by operation count, without
  autograd's bookkeeping.

The batch size becomes a variable by recording at two sizes: wherever the two graphs differ it
must be in a number proportional, or inversely so, to the size. Any other difference refuses the
trace. So does a product that differs from double backward's, which is compared once.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad_and_value
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from saddlescope.curvature.forward import ForwardPlan
from saddlescope.curvature.parameters import ParameterVector

_SIZES = (3, 5)
_IDENTITIES = (torch.ops.aten.alias.default, torch.ops.aten.detach.default)


class TraceError(Exception):
    """This model cannot be traced; the message says why."""


class TracedProgram:
    """The two halves of a product, for one model structure and one sample shape.

    Args:
        model: the module whose structure is recorded; its values are inputs.
        vector: the parameters that make up w.
        plan: how the forward pass is run.
        criterion: `criterion(outputs, targets) -> scalar`.
        inputs: one batch of inputs, a tensor of shape (n, …).
        targets: its targets, a tensor of shape (n, …).

    Raises:
        TraceError: the model or the criterion does something that cannot be recorded, or that
            depends on the batch size in another way than by proportion.
    """

    def __init__(
        self,
        model: nn.Module,
        vector: ParameterVector,
        plan: ForwardPlan,
        criterion: Callable[[Any, Any], Tensor],
        inputs: Tensor,
        targets: Tensor,
    ) -> None:
        function = _dual_gradient(model, vector, plan, criterion)
        points = [p.detach() for p in vector.tensors]
        others = _others(model, vector)
        graphs = []
        for size in _SIZES:
            batch = [_resized(inputs, size), _resized(targets, size)]
            directions = [torch.zeros_like(p) for p in points]
            try:
                traced = make_fx(function, tracing_mode="fake")(points, others, *batch, directions)
            except Exception as error:
                # Tracing runs anybody's forward pass on fake tensors: anything may be raised.
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise TraceError(f"recording failed ({reason})") from error
            graphs.append(_cleaned(traced))
        _free_batch_size(*(graph.graph for graph in graphs))
        self._inputs = len(points) + len(others) + 2
        self.primal, self.tangent = _split(graphs[0], first_direction=self._inputs)
        self._parameters = len(points)

    @property
    def operations(self) -> int:
        """Tensor operations of one product."""
        return sum(node.op == "call_function" for node in self.tangent.graph.nodes)

    def linearise(
        self, vector: ParameterVector, model: nn.Module, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, list[Tensor], list[Any]]:
        """Run the primal half.

        Returns:
            The loss (a scalar), the gradient (a tensor a parameter) and what `product` needs.
        """
        points = [p.detach() for p in vector.tensors]
        with torch.no_grad():
            outputs = self.primal(*points, *_others(model, vector), inputs, targets, len(inputs))
        return outputs[0], list(outputs[1 : 1 + self._parameters]), outputs[1 + self._parameters :]

    def product(self, kept: list[Any], parts: list[Tensor]) -> list[Tensor]:
        """Run the tangent half for a direction given as a tensor a parameter."""
        with torch.no_grad():
            found: list[Tensor] = list(self.tangent(*kept, *parts))
        return found


def _dual_gradient(
    model: nn.Module,
    vector: ParameterVector,
    plan: ForwardPlan,
    criterion: Callable[[Any, Any], Tensor],
) -> Callable[..., Any]:
    def function(
        points: list[Tensor],
        others: list[Tensor],
        inputs: Tensor,
        targets: Tensor,
        directions: list[Tensor],
    ) -> tuple[Any, ...]:
        fixed = dict(zip(_other_names(model, vector), others, strict=True))

        def loss(at: list[Tensor]) -> Tensor:
            named = dict(zip(vector.names, at, strict=True)) | fixed

            def call(*arguments: Any) -> Any:
                return functional_call(model, named, arguments)

            return criterion(plan.run(call, inputs), targets)

        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(p, v) for p, v in zip(points, directions, strict=True)]
            gradients, value = grad_and_value(loss)(duals)
            halves = [forward_ad.unpack_dual(gradient) for gradient in gradients]
            return (
                forward_ad.unpack_dual(value).primal,
                *(half.primal for half in halves),
                *(
                    torch.zeros_like(half.primal) if half.tangent is None else half.tangent
                    for half in halves
                ),
            )

    return function


def _other_names(model: nn.Module, vector: ParameterVector) -> list[str]:
    """Buffers, and the parameters that w leaves out: inputs of the graph, not constants in it."""
    mine = set(vector.names)
    parameters = [name for name, _ in model.named_parameters() if name not in mine]
    return parameters + [name for name, _ in model.named_buffers()]


def _others(model: nn.Module, vector: ParameterVector) -> list[Tensor]:
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    return [named[name].detach() for name in _other_names(model, vector)]


def _resized(batch: Tensor, size: int) -> Tensor:
    """The first sample `size` times, in the batch's memory layout."""
    repeated = batch[:1].expand(size, *batch.shape[1:])
    if batch.dim() == 4 and batch.is_contiguous(memory_format=torch.channels_last):
        return repeated.contiguous(memory_format=torch.channels_last)
    return repeated.contiguous()


def _cleaned(module: GraphModule) -> GraphModule:
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


def _free_batch_size(graph: Graph, other: Graph) -> None:
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
            key = _proportion(one, two)
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


def _proportion(one: Any, two: Any) -> tuple[Any, Any]:
    """How a number follows the batch size: (mul, k) for k·n, (truediv, k) for k/n."""
    small, large = _SIZES
    if type(one) is type(two) and isinstance(one, int | float) and not isinstance(one, bool):
        if one * large == two * small and (isinstance(one, float) or one % small == 0):
            return operator.mul, one // small if isinstance(one, int) else one / small
        if isinstance(one, float) and abs(one * small - two * large) <= 1e-12 * abs(one):
            return operator.truediv, one * small
    raise TraceError(f"a number depends on the batch size in an unknown way ({one!r}, {two!r})")


def _split(module: GraphModule, *, first_direction: int) -> tuple[GraphModule, GraphModule]:
    """Separate what depends on the direction from what does not."""
    nodes = list(module.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    directions = placeholders[first_direction:-1]
    (output,) = (node for node in nodes if node.op == "output")
    results = list(output.args[0])
    count = len(directions)
    primal_results, tangent_results = results[:-count], results[-count:]

    moving = _moving(nodes, directions)
    kept: dict[Node, None] = {}
    for node in nodes:
        if node in moving:
            kept |= {source: None for source in node.all_input_nodes if source not in moving}
    kept |= {node: None for node in tangent_results if node not in moving}

    primal, copied = Graph(), {}
    for node in nodes:
        if node.op == "placeholder" and node not in directions:
            copied[node] = primal.placeholder(node.name)
        elif node.op == "call_function" and node not in moving:
            copied[node] = primal.node_copy(node, lambda source: copied[source])
    primal.output((*(copied[node] for node in primal_results), *(copied[node] for node in kept)))
    primal.eliminate_dead_code()

    tangent, moved = Graph(), {}
    for node in (*kept, *directions):
        moved[node] = tangent.placeholder(node.name)
    for node in nodes:
        if node in moving and node.op == "call_function":
            moved[node] = tangent.node_copy(node, lambda source: moved[source])
    tangent.output(tuple(moved[node] for node in tangent_results))
    return GraphModule(module, primal), GraphModule(module, tangent)


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
