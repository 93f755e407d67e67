"""DecoupledNet: evidence of classes, what is drawn of it, and who learns from what."""

import pytest
import torch

from foveal import building
from foveal.networks.decouplednet import ABSENT, DecoupledNet


def small(num_classes=3, **options):
    options = {
        "features": (4, 4, 5, 5, 6),
        "head_features": 8,
        "bridge_features": 7,
        **options,
    }
    return building.network(
        "decouplednet", in_channels=1, num_classes=num_classes, **options
    )


def test_published_size():
    with torch.device("meta"):
        network = building.network("decouplednet", in_channels=3, num_classes=21)
    total = sum(each.numel() for each in network.parameters())
    classification = sum(each.numel() for each in network.classification.parameters())
    assert (classification, total) == (134_346_581, 307_454_487)
    for number in (classification, total - classification, total):
        assert f"{number:,}" in DecoupledNet.__doc__


@pytest.mark.parametrize("shape", [(64, 40), (257, 230)])
def test_relevance_is_the_gradient_of_the_score_times_the_probability(shape):
    torch.manual_seed(0)
    network = small(num_classes=4).double().eval()
    image = torch.rand(2, 1, *shape, dtype=torch.double)
    evidence = network.classification.evidence(image)
    relevance = network.classification.relevance(evidence, [0, 2])
    pool5 = evidence.pooled[-1].maps
    of_image = evidence.scores.amax(dim=(2, 3))
    for place, number in enumerate((1, 3)):
        (gradient,) = torch.autograd.grad(
            of_image[:, number].sum(), pool5, retain_graph=True
        )
        # As image labels train it: the class against background.
        logits = of_image[:, number] - of_image[:, 0]
        probability = logits.sigmoid()[:, None, None, None]
        torch.testing.assert_close(relevance[:, place], gradient * probability)
        assert gradient.abs().max() > 0


def test_image_logits_are_the_highest_scores_anywhere():
    torch.manual_seed(0)
    network = small().eval()
    image = torch.rand(2, 1, 256, 230)
    scores = network.classification.evidence(image).scores
    assert scores.shape == (2, 3, 2, 2)
    torch.testing.assert_close(network.image_logits(image), scores.amax(dim=(2, 3)))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_probabilities_are_the_summed_class_maps(num_classes):
    torch.manual_seed(0)
    network = small(num_classes).eval()
    image = torch.rand(2, 1, 64, 33)
    output = network(image, taps=("decoder.4",))
    figure = network.figure_ground(output.activations[0]).softmax(dim=1)
    number = len(figure) // 2
    maps = figure[:, 1].unflatten(0, (2, number))[:, -(num_classes - 1) :]
    ground = figure[:, 0].unflatten(0, (2, number))[:, :1]
    summed = torch.cat([ground, maps], dim=1)
    expected = summed / summed.sum(dim=1, keepdim=True)
    torch.testing.assert_close(output.logits.softmax(dim=1), expected)
    # One class together with no other is that class alone, and drawn once.
    assert number == (1 if num_classes == 2 else num_classes)


def test_each_class_is_drawn_from_its_own_evidence():
    torch.manual_seed(0)
    network = small().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.ConvTranspose2d):
            torch.nn.init.normal_(module.weight)
    image = torch.rand(1, 1, 64, 64)
    swapped = small().eval()
    swapped.load_state_dict(network.state_dict())
    for parameter in swapped.classification.score.parameters():
        parameter.data = parameter.data[[0, 2, 1]]
    torch.testing.assert_close(
        swapped(image).logits, network(image).logits[:, [0, 2, 1]]
    )
    logits = network(image).logits
    assert (logits[:, 1] - logits[:, 2]).abs().max() > 0


def test_classes_that_the_classifier_does_not_see_are_left_out_of_predictions():
    torch.manual_seed(0)
    network = small(presence_threshold=0.5)
    # Both are likely by themselves, one is not against background.
    network.classification.score.bias.data = torch.tensor([10.0, 15.0, 5.0])
    image = torch.rand(2, 1, 32, 32)
    logits = network.eval()(image).logits
    assert (logits[:, 2] == ABSENT).all()
    # Neither is it drawn: all that is present together, and the first class.
    assert len(network(image, taps=("relevance",)).activations[0]) == 2 * 2
    assert (logits[:, 1] > ABSENT).all()
    assert (network.train()(image).logits[:, 2] > ABSENT).all()
    network.classification.score.bias.data[1] = 5.0
    assert (network.eval()(image).logits.argmax(dim=1) == 0).all()
    with_all = small(presence_threshold=0.0)
    with_all.load_state_dict(network.state_dict())
    assert (with_all.eval()(image).logits[:, 2] > ABSENT).all()


def test_image_labels_train_the_classifier_only():
    network = small()
    network.image_logits(torch.rand(2, 1, 64, 64)).sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == name.startswith("classification."), name


def test_masks_train_the_rest_while_the_classifier_is_frozen():
    torch.manual_seed(0)
    network = small().train()
    network.classification.requires_grad_(False)
    image = torch.zeros(4, 1, 32, 32)
    label_map = torch.zeros(4, 32, 32, dtype=torch.long)
    image[:2, :, 4:20, 4:20] = 2
    label_map[:2, 4:20, 4:20] = 1
    image[2:, :, 8:28, 10:30] = -2
    label_map[2:, 8:28, 10:30] = 2
    free = [each for each in network.parameters() if each.requires_grad]
    optimiser = torch.optim.Adam(free, lr=0.01)
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(network(image).logits, label_map)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], losses
    for parameter in network.classification.parameters():
        assert parameter.grad is None
    for parameter in free:
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1), (33, 31)])
def test_any_size_comes_out_as_it_went_in(shape):
    network = small().eval()
    with torch.inference_mode():
        logits = network(torch.rand(1, 1, *shape)).logits
    assert tuple(logits.shape[2:]) == shape == network.output_shape(shape)
    assert network.receptive_field is None
