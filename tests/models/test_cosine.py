"""The cosine classifier, and the original LDAM on it, against formulas."""

import pytest
import torch

from saddlescope.errors import UsageError
from saddlescope.longtail import make_loss
from saddlescope.models import CosineClassifier, build_model


def test_outputs_are_cosines_and_do_not_depend_on_lengths():
    torch.manual_seed(0)
    layer = CosineClassifier(5, 3).double()
    features = torch.randn(7, 5, dtype=torch.float64)
    wanted = torch.cosine_similarity(features[:, None], layer.weight[None], dim=2)
    torch.testing.assert_close(layer(features), wanted, rtol=1e-12, atol=1e-14)
    with torch.no_grad():
        layer.weight *= torch.tensor([[2.0], [0.1], [7.0]], dtype=torch.float64)
    torch.testing.assert_close(layer(3.0 * features), wanted, rtol=1e-12, atol=1e-14)


def test_ldams_two_forms_differ_as_the_codes_do():
    """Released: raw logits, margins of up to 15. Original: 30·cosines, margins on the cosines."""
    counts, targets = (50, 5), torch.tensor([0, 1])
    cosines = torch.tensor([[0.4, 0.1], [0.2, -0.3]], dtype=torch.float64)
    margin = torch.tensor([0.5 * (5 / 50) ** 0.25, 0.5], dtype=torch.float64)
    at_target = torch.diag(margin)
    for form, logits in (
        ("released", cosines - 30 * at_target),
        ("original", 30 * (cosines - at_target)),
    ):
        loss = make_loss("ldam", counts, form=form, reduction="none")(cosines, targets)
        wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet8", "resnet32", "resnet34"])
def test_a_network_with_it_differs_in_the_last_layer_alone(name):
    plain, cosine = (
        build_model(name, num_classes=4, in_channels=1, seed=3, classifier=kind)
        for kind in ("linear", "cosine")
    )
    assert isinstance(cosine.fc, CosineClassifier)
    ours, theirs = cosine.state_dict(), plain.state_dict()
    assert set(theirs) - set(ours) == {"fc.bias"}
    for key, value in ours.items():
        assert key == "fc.weight" or torch.equal(value, theirs[key]), key
    with torch.no_grad():
        logits = cosine.eval()(torch.randn(2, 1, 8, 8))
    assert float(logits.abs().max()) <= 1 + 1e-6
    again = build_model(name, num_classes=4, in_channels=1, seed=3, classifier="cosine")
    assert torch.equal(again.fc.weight, cosine.fc.weight)


def test_an_unknown_classifier():
    with pytest.raises(UsageError, match="choose from linear, cosine"):
        build_model("resnet8", num_classes=4, in_channels=1, seed=0, classifier="cosin")
