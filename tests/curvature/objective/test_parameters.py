"""Parameters are chosen by name, module, pattern, expression or test; none chosen is refused."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from saddlescope.curvature import HessianOperator, as_patterns, class_spectra, select_parameters
from saddlescope.errors import UsageError


def block(width=3):
    return nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.Tanh())


def network():
    torch.manual_seed(0)
    model = nn.Module()
    model.blocks = nn.ModuleList([block(), block()])
    model.head = nn.Linear(3, 2)
    model.forward = lambda x: model.head(model.blocks[1](model.blocks[0](x)))
    return model.double()


def chosen(choice, model=None):
    return set(select_parameters(model or network(), choice).names)


ALL = set(dict(network().named_parameters()))
NORMS = {f"blocks.{i}.1.{word}" for i in (0, 1) for word in ("weight", "bias")}
BLOCK = {name for name in ALL if name.startswith("blocks.0.")}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("blocks.0", BLOCK),
        ("blocks.0.*", BLOCK),
        ("blocks", ALL - {"head.weight", "head.bias"}),
        ("blocks.?", ALL - {"head.weight", "head.bias"}),
        ("head.weight", {"head.weight"}),
        (["head", "blocks.0.0.bias"], {"head.weight", "head.bias", "blocks.0.0.bias"}),
        (re.compile(r"\.1\.(weight|bias)$"), NORMS),
        (lambda _, p: p.ndim > 1, {"blocks.0.0.weight", "blocks.1.0.weight", "head.weight"}),
        (lambda name, _: "bias" not in name, {name for name in ALL if "bias" not in name}),
    ],
)  # fmt: skip
def test_what_a_choice_means(choice, names):
    assert chosen(choice) == names


def test_modules_and_parameters_of_the_model():
    model = network()
    assert chosen(model.blocks[0], model) == BLOCK
    assert chosen([model.blocks[0], model.head.bias], model) == BLOCK | {"head.bias"}
    assert chosen(model, model) == ALL
    with pytest.raises(UsageError, match="Sequential that is no module of Module"):
        chosen(block(), model)


@given(st.sets(st.sampled_from(sorted(ALL)), min_size=1))
def test_any_set_by_names_by_tensors_and_by_a_test_is_one(names):
    model = network()
    tensors = [p for name, p in model.named_parameters() if name in names]
    assert chosen(sorted(names), model) == names
    assert chosen(tensors, model) == names
    assert chosen(lambda name, _: name in names, model) == names


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("block.0", "matching 'block.0': did you mean 'blocks.0'?"),
        (["head", "hed.weight"], "matching 'hed.weight': did you mean 'head.weight'?"),
        ("zzz", "matching 'zzz': there are blocks.0.0.weight, blocks.0.0.bias"),
        (re.compile("conv"), "matching 'conv': there are"),
        (lambda name, p: False, "that was chosen: there are"),
        (3, "parameters holds a int"),
    ],
)
def test_a_choice_of_nothing_says_what_there_is(choice, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        chosen(choice)


def test_what_is_frozen_is_not_measured_in_silence():
    model = network()
    model.head.requires_grad_(False)
    with pytest.raises(UsageError, match="matching 'head': what it means is frozen"):
        chosen("head", model)
    with pytest.raises(UsageError, match="frozen"):
        chosen([model.blocks[0], model.head], model)
    assert chosen(model.parameters(), model) == ALL - {"head.weight", "head.bias"}


def test_brackets_in_a_name_are_letters():
    model = nn.Module()
    model.register_module("a[0]", nn.Linear(2, 2))
    model.register_module("a0", nn.Linear(2, 2))
    wanted = as_patterns(model, model.get_submodule("a[0]"))
    assert set(select_parameters(model, wanted).names) == {"a[0].weight", "a[0].bias"}


def test_it_is_the_block_of_the_matrix():
    model = network()
    data = [(torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0]))]
    loss = nn.CrossEntropyLoss()
    by_name = HessianOperator(model, loss, data, parameters="blocks.1")
    by_module = HessianOperator(model, loss, data, parameters=model.blocks[1])
    vector = torch.ones(by_name.size, dtype=torch.float64)
    torch.testing.assert_close(by_name.matvec(vector), by_module.matvec(vector))
    table = class_spectra(model, loss, data[0], classes="none", parameters=model.blocks[1])
    assert table["parameters"][0] == ",".join(sorted(by_name.objective.vector.names, key=list(
        dict(model.named_parameters())).index))  # fmt: skip


def test_parameters_that_are_divided_among_ranks_are_refused(tmp_path):
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    try:
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(UsageError, match=r"parameter 0\.weight is divided among ranks"):
            select_parameters(model, None)
    finally:
        distributed.destroy_process_group()


class Tied(nn.Module):
    """The head's weight is the embedding's; w has it once, under the first name."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.middle = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(torch.tanh(self.middle(self.embedding(x))))


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("head", {"embedding.weight", "head.bias"}),
        ("head.*", {"embedding.weight", "head.bias"}),
        ("head.weight", {"embedding.weight"}),
        (re.compile("^head"), {"embedding.weight", "head.bias"}),
        (lambda name, _: name.startswith("head"), {"embedding.weight", "head.bias"}),
        ("embedding", {"embedding.weight"}),
        (["middle", "head.weight"], {"embedding.weight", "middle.weight", "middle.bias"}),
    ],
)
def test_a_tied_parameter_is_meant_by_each_of_its_names(choice, names):
    assert chosen(choice, Tied()) == names


def test_the_matrix_of_a_head_with_a_tied_weight_is_that_of_its_module():
    model, x = Tied().double().eval(), torch.arange(7)
    batches = [(x, x)]
    one, two = (
        HessianOperator(model, nn.CrossEntropyLoss(), batches, parameters=choice)
        for choice in ("head", model.head)
    )
    assert one.size == two.size == 35
    v = torch.randn(35, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(one @ v, two @ v)
