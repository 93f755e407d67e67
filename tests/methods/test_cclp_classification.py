"""CCLP of whole images: what a class is, which images have one, whose gradient."""

import pytest
import torch

from foveal import building
from foveal.augmentation.intensity import IntensityAugmentation
from foveal.augmentation.spatial import SpatialAugmentation
from foveal.config.methods import CclpClassificationConfig
from foveal.errors import SettingsError
from foveal.losses.compact_clusters import compact_clusters_loss
from foveal.methods.cclp_classification import CclpClassification, combinations
from foveal.methods.interface import Clock, Setting
from foveal.methods.labelled_loss import LabelledLoss
from foveal.sampling.batch import Batch

STRUCTURES = torch.eye(3, dtype=torch.bool)[1:]
CLOCK = Clock(step=3, total_steps=4, seed=0, rank=0)
SHAPE = (8, 8, 8)


def method(network="unet3d", **options):
    torch.manual_seed(0)
    unet = {"features": (4, 8), "kernels": ((3, 3, 3),) * 2, "strides": ((2, 2, 2),)}
    made = building.network(network, in_channels=1, num_classes=3, **unet, norm="batch")
    return around(made, **options)


def around(network, **options):
    setting = Setting(
        network=network,
        labelled_loss=LabelledLoss({}),
        sampler="uniform",
        batch_size=2,
        in_channels=1,
        patch_size=SHAPE,
        spacing_mm=(1.0, 1.0, 1.0),
        structures=STRUCTURES,
        # Patches are made up here; nothing is to be augmented.
        spatial=object.__new__(SpatialAugmentation),
        intensity=object.__new__(IntensityAugmentation),
    )
    return CclpClassification(setting, **CclpClassificationConfig(**options).options)


def images(present=(), known=()):
    """Four if it is not said what they show; all that is said is known by default."""
    number = len(present) or 4
    drawn = torch.randn(number, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    flags = torch.tensor(present) if present else None
    everything = None if flags is None else torch.ones_like(flags)
    return Batch(
        image=drawn,
        label_map=None,
        annotated=everything,
        structures=None if flags is None else STRUCTURES,
        case_names=("a",) * number,
        corners=((0, 0, 0),) * number,
        present=flags,
        presence_known=torch.tensor(known) if known else everything,
    )


SHOWN = [[True, False], [True, True], [True, False], [False, False]]


def test_a_class_is_a_combination_of_structures():
    found = combinations(torch.tensor(SHOWN))
    assert found.tolist() == [1, 2, 1, 0]
    assert combinations(torch.zeros(0, 2, dtype=torch.bool)).tolist() == []


def test_images_of_which_something_is_unknown_are_unlabelled_samples():
    learner = method(weight=1.0, temperature=0.5)
    batch = images(SHOWN, known=[[True, True], [True, False], [True, True], [True] * 2])
    others = images()
    terms = learner({"images": batch, "unlabelled": others}, CLOCK)
    assert terms.keys() == {"presence", "compact_clusters"}
    assert learner.measures() == {"labelled_classes": torch.tensor(2.0)}

    def means(image):
        return learner.network(image, ["decoder.0"]).activations[0].mean(dim=(2, 3, 4))

    twin = method()
    of_batch = twin.network(batch.image, ["decoder.0"]).activations[0].mean((2, 3, 4))
    learner.network.eval()
    expected = compact_clusters_loss(
        torch.cat([of_batch[[0, 2, 3, 1]], means(others.image)]),
        torch.eye(2)[[1, 1, 0]],
        similarity="cosine",
        temperature=0.5,
    )
    torch.testing.assert_close(terms["compact_clusters"], expected)


def test_the_classifier_learns_from_presence_alone():
    learner = method()
    terms = learner({"images": images(SHOWN), "unlabelled": images()}, CLOCK)
    terms["compact_clusters"].backward()
    for weight in learner.network.classifiers.parameters():
        assert weight.grad is None
    assert learner.network.encoder[0][0][0].weight.grad.abs().sum() > 0


def test_images_that_all_show_the_same_are_told_apart_by_nothing():
    learner = method(unlabelled_patches=0)
    assert learner.streams.keys() == {"images"}
    terms = learner({"images": images([[True, False]] * 3)}, CLOCK)
    assert float(terms["compact_clusters"]) == 0.0
    assert not terms["compact_clusters"].requires_grad
    assert terms["presence"].requires_grad


def test_a_network_with_a_classifier_apart_is_refused():
    options = {"features": (2,) * 5, "head_features": 2, "bridge_features": 2}
    made = building.network("decouplednet", in_channels=1, num_classes=3, **options)
    with pytest.raises(SettingsError, match="a classifier apart from it"):
        around(made)
