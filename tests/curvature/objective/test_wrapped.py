"""Networks that a data-parallel wrapper holds: by one rank alone, nobody waits for the others."""

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from saddlescope.curvature import HessianOperator, class_spectra, extreme_eigenvalues
from saddlescope.errors import UsageError
from tests.curvature.networks import convolutional, images
from tests.curvature.processes import on_ranks

CRITERION = nn.CrossEntropyLoss()


def ends(model, **options):
    found = extreme_eigenvalues(HessianOperator(model, CRITERION, [images(9)], **options))
    return found.lambda_max.value, found.lambda_min.value


def row(model):
    rows = class_spectra(model, CRITERION, images(9), classes="none", groups=("all",))
    return rows["lambda_max"][0]


def by_the_first(ranks, wrap, look, *, inside):
    """What the first rank sees while the others do nothing, and then a step of all."""
    model = wrap(convolutional())
    if inside:
        model = nn.Sequential(model, nn.Identity())
    model.eval()
    found = None
    if ranks.rank == 0:
        try:
            found = look(model)
        except UsageError as error:
            found = str(error)
    distributed.barrier()
    return found


def twice(model):
    return DistributedDataParallel(DistributedDataParallel(model))


def outside(model):
    return ends(model), ends(model, parameters="6"), row(model)


@pytest.mark.parametrize("wrap", [DistributedDataParallel, nn.DataParallel, twice])
def test_a_wrapped_network_is_measured_by_one_rank_as_it_was_written(wrap):
    found, nothing = on_ranks(2, by_the_first_outside, wrap)
    assert nothing is None
    assert found == outside(convolutional())


def by_the_first_outside(ranks, wrap):
    return by_the_first(ranks, wrap, outside, inside=False)


def by_the_first_inside(ranks, wrap):
    return by_the_first(ranks, wrap, ends, inside=True)


def test_a_wrapper_inside_the_network_is_refused():
    found, _ = on_ranks(2, by_the_first_inside, DistributedDataParallel)
    assert "0 is DistributedDataParallel" in found
    assert "measure the model with 0.module in its place" in found


def divided(model):
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"))


def divided_by_name(model):
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


@pytest.mark.parametrize("by_the", [by_the_first_outside, by_the_first_inside])
@pytest.mark.parametrize("wrap", [divided, divided_by_name])
def test_a_network_that_fsdp_divides_is_refused(wrap, by_the):
    found, _ = on_ranks(2, by_the, wrap)
    assert "is divided among ranks (FullyShardedDataParallel): measure a whole copy" in found
