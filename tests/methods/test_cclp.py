"""CCLP in training: which voxels, which gradients, and what it refuses."""

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from foveal import building
from foveal.augmentation.intensity import IntensityAugmentation
from foveal.augmentation.spatial import SpatialAugmentation
from foveal.config.methods import CclpConfig
from foveal.config.networks.registry import NETWORK_SECTIONS
from foveal.engine.training import Training, UpdateRules
from foveal.errors import SettingsError
from foveal.inference.numerics import Numerics
from foveal.losses.compact_clusters import compact_clusters_loss
from foveal.losses.cross_entropy import cross_entropy
from foveal.methods.cclp import Cclp, voxel_embeddings
from foveal.methods.interface import Clock, Setting
from foveal.methods.labelled_loss import LabelledLoss
from foveal.networks.crf_rnn import CrfRnn
from foveal.networks.foreign import ForeignNetwork
from foveal.networks.interface import Output
from foveal.networks.slices import SliceBySlice
from foveal.sampling.batch import Batch

STRUCTURES = torch.eye(3, dtype=torch.bool)[1:]
CLOCK = Clock(step=1, total_steps=4, seed=0, rank=0)
UNET = {"features": (4, 8), "kernels": ((3, 3, 3),) * 2, "strides": ((2, 2, 2),)}
PLANE = {"features": (4, 8), "kernels": ((3, 3),) * 2, "strides": ((2, 2),)}
DEEPMEDIC = {
    "features": (2, 3),
    "factors": (1, 3),
    "residual_layers": (),
    "hidden_features": (4, 5),
    "hidden_dropout_fractions": (0.5,),
}
VGG = {"features": (2,) * 5}
HEAD = VGG | {"head_features": 3}
DUAL = {"convolution_features": (2,), "block_features": (2,), "hidden_features": (5,)}
RESNET = {"backbone": "resnet18", "first_features": 2}
NETWORKS = [
    ("unet3d", UNET, "decoder.0"),
    ("unet3d-residual", UNET, "decoder.0"),
    ("unet2d", PLANE | {"deep_supervision": True}, "decoder.0"),
    ("unet3d-spleen", {"width": 2}, "decoder.3"),
    ("fcn3d", {"features": (2, 3), "strides": ((2, 2, 2),)}, "encoder.1"),
    ("deepmedic", DEEPMEDIC, "hidden.2"),
    ("deepmedic2d", DEEPMEDIC, "hidden.2"),
    ("dual-path", DUAL | {"bottleneck_features": ((2, 4),)}, "hidden.3"),
    ("fcn8s", HEAD | {"input_padding": 1}, "fc7"),
    ("segnet", VGG, "decoder.4"),
    ("deconvnet", HEAD, "decoder.4"),
    ("decouplednet", HEAD | {"bridge_features": 3}, "fc7"),
    ("deeplabv2", RESNET, "layer4"),
    ("deeplabv2", {"backbone": "vgg16", "first_features": 2}, "stages.4"),
    ("deeplabv3", RESNET | {"head_features": 3}, "project"),
]


def built(name="unet3d", **options):
    torch.manual_seed(0)
    options = options or UNET
    made = building.network(name, in_channels=1, num_classes=3, **options)
    return SliceBySlice(made, 2) if len(made.alignment) == 2 else made


def setting(network, patch_size=(8, 8, 8)):
    return Setting(
        network=network,
        labelled_loss=LabelledLoss({"cross_entropy": (cross_entropy, 1.0)}),
        sampler="class_balanced",
        batch_size=2,
        in_channels=1,
        patch_size=patch_size,
        spacing_mm=(1.0, 1.0, 1.0),
        structures=STRUCTURES,
        # Patches are made up here; nothing is to be augmented.
        spatial=object.__new__(SpatialAugmentation),
        intensity=object.__new__(IntensityAugmentation),
    )


def cclp(network=None, patch_size=(8, 8, 8), **options):
    chosen = CclpConfig(**options).options
    return Cclp(setting(network or built(), patch_size), **chosen)


def batch(seed, patch_size=(8, 8, 8), *, labelled=True, classes=3):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, *patch_size)
    labels = torch.randint(classes, shape, generator=generator, dtype=torch.uint8)
    image = torch.randn(2, 1, *patch_size, generator=generator)
    return Batch(
        image=image + 2 * labels[:, None],
        label_map=labels if labelled else None,
        annotated=torch.ones(2, 2, dtype=torch.bool) if labelled else None,
        structures=STRUCTURES if labelled else None,
        case_names=("a", "b"),
        corners=((0, 0, 0),) * 2,
    )


def both(seed=0, **options):
    return {
        "labelled": batch(seed, **options),
        "unlabelled": batch(seed + 1, labelled=False, **options),
    }


@pytest.mark.parametrize(("name", "options", "layer"), NETWORKS)
def test_voxels_have_the_embedding_that_lies_at_their_place(name, options, layer):
    network = built(name, **options).eval()
    assert network.embedding_layer == layer
    shape = network.fitting_shape([length + 20 for length in (1, 9, 2)])
    image = torch.rand(2, 1, *shape)
    with torch.no_grad():
        output = network(image, [layer])
        whole = network.at_output(layer, output.activations[0], output.logits.shape[2:])
    voxels = torch.randperm(output.logits[:, 0].numel())[:50]
    found = voxel_embeddings(network, layer, output, voxels)
    torch.testing.assert_close(found, whole.movedim(1, -1).flatten(0, -2)[voxels])


def test_every_own_network_knows_its_last_hidden_layer():
    for name, section in NETWORK_SECTIONS.items():
        options = section(name=name).model_dump(exclude={"name"})
        if ":" in name:
            continue
        with torch.device("meta"):
            network = building.network(name, in_channels=1, num_classes=2, **options)
        assert network.embedding_layer, name
        assert CrfRnn(network, nn.Identity()).embedding_layer == network.embedding_layer


@pytest.mark.parametrize(
    ("name", "options", "classifier"),
    [
        ("unet3d", UNET, "classifiers"),
        ("unet2d", PLANE, "network.classifiers"),
        ("deepmedic", DEEPMEDIC, "classifier"),
    ],
)
def test_the_classifier_learns_from_the_supervised_terms_alone(
    name, options, classifier
):
    network = built(name, **options)
    shape = network.fitting_shape((8, 8, 3))
    method = cclp(network, shape).train()
    terms = method(both(patch_size=shape), CLOCK)
    assert terms.keys() == {"cross_entropy", "compact_clusters"}
    terms["compact_clusters"].backward()
    learned = {
        name
        for name, weight in network.named_parameters()
        if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    assert learned
    assert not any(name.startswith(classifier) for name in learned)
    for weight in network.get_submodule(classifier).parameters():
        assert weight.grad is None


def test_without_unlabelled_voxels_only_labelled_patches_are_read():
    # So few voxels that all are drawn: the loss is that of all.
    method = cclp(unlabelled_voxels=0, labelled_voxels=6000, ramp_up_fraction=0.0)
    assert method.streams.keys() == {"labelled"}
    method.eval()
    one = {"labelled": batch(0, classes=2)}
    one["labelled"].label_map[:, 2:] = 255
    one["labelled"].label_map[0, 0] = 0
    found = method(one, CLOCK)["compact_clusters"]
    features = method.network(one["labelled"].image, ["decoder.0"]).activations[0]
    known = one["labelled"].label_map < 255
    expected = compact_clusters_loss(
        features.movedim(1, -1)[known],
        nn.functional.one_hot(one["labelled"].label_map[known].long(), 3).float(),
        similarity="cosine",
        temperature=CclpConfig().temperature,
    )
    torch.testing.assert_close(found, CclpConfig().weight * expected)
    assert method.measures() == {"labelled_classes": torch.tensor(2.0)}


def test_what_is_measured_is_of_the_voxels_drawn():
    method = cclp(labelled_voxels=30, unlabelled_voxels=40)
    method(both(), CLOCK)
    measured = {name: float(value) for name, value in method.measures().items()}
    assert measured["labelled_classes"] == 3
    assert 0 < measured["unlabelled_voxels"] <= 40
    assert measured["unlabelled_foreground"] >= 0.5
    assert 0 <= measured["propagation_agreement"] <= 1


def test_propagation_agrees_with_a_network_whose_features_are_its_answer():
    method = cclp(temperature=0.02)
    labels = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    labels[:, :2], labels[:, 2:, :2] = 1, 2
    one_hot = nn.functional.one_hot(labels.long(), 3).movedim(-1, 1)
    logits = 9.0 * one_hot
    answers = [Output(logits, (), (logits,))] * 3
    # In the end, features of one class where the other is predicted.
    answers.append(Output(logits[:, [0, 2, 1]], (), (logits,)))
    left = iter(answers)
    method.network.forward = lambda image, taps=(): next(left)
    batches = both(patch_size=(4, 4, 4))
    batches["labelled"] = Batch(
        image=torch.zeros(1, 1, 4, 4, 4),
        label_map=labels,
        annotated=torch.ones(1, 2, dtype=torch.bool),
        structures=STRUCTURES,
        case_names=("a",),
        corners=((0, 0, 0),),
    )
    found = []
    for _ in range(2):
        method(batches, CLOCK)
        found.append(float(method.measures()["propagation_agreement"]))
    assert found[0] == 1.0
    # Of class 1 so many as its share, of class 2 and background all there are.
    assert found[1] == pytest.approx(16 / (30 + 16 + 16))


def test_a_step_with_one_class_only_is_supervised():
    method = cclp()
    batches = both()
    batches["labelled"].label_map.fill_(1)
    terms = method(batches, CLOCK)
    assert float(terms["compact_clusters"]) == 0.0
    assert not terms["compact_clusters"].requires_grad
    assert terms["cross_entropy"].requires_grad
    assert method.measures() == {"labelled_classes": torch.tensor(1.0)}


def test_a_network_that_predicts_no_foreground_draws_nothing_unlabelled():
    method = cclp(weight=1.0, ramp_up_fraction=0.0)
    with torch.no_grad():
        method.network.classifiers[-1].bias[0] = 1e3
    terms = method(both(), CLOCK)
    assert terms["compact_clusters"].isfinite()
    assert terms["compact_clusters"] > 0
    assert float(method.measures()["unlabelled_voxels"]) == 0.0
    assert "propagation_agreement" not in method.measures()


def test_the_weight_rises_linearly():
    method = cclp(weight=2.0, ramp_up_fraction=0.5)

    def term(step):
        torch.manual_seed(0)
        return float(method(both(), Clock(step, 8, 0, 0))["compact_clusters"].detach())

    assert term(0) == 0.0
    assert term(1) == pytest.approx(term(6) / 4)
    assert term(4) == pytest.approx(term(6))


def test_unlabelled_patches_leave_the_statistics_of_norms_alone():
    method = cclp(built(**UNET, norm="batch"))
    alone = built(**UNET, norm="batch")
    batches = both()
    method(batches, CLOCK)
    alone(batches["labelled"].image)
    expected = dict(alone.named_buffers())
    for name, statistics in method.network.named_buffers():
        assert torch.equal(statistics, expected[name]), name


def training():
    method = cclp(built(**UNET, norm="batch", dropout_fraction=0.3))
    groups = method.parameter_groups()
    return Training(
        method,
        {"network": torch.optim.AdamW(groups["network"], lr=1e-2)},
        Fabric(accelerator="cpu", devices=1),
        numerics=Numerics("float32", "contiguous"),
        rules=UpdateRules(
            learning_rate_factor=lambda step, total: 1 - step / total,
            gradient_clip_norm=10.0,
            ema_decay=0.9,
        ),
        seed=3,
    )


def test_resumed_in_the_middle_the_weights_are_the_same_to_the_bit():
    unbroken, first, second = training(), training(), training()
    for step in range(4):
        unbroken.update(both(step), 4)
    for step in range(2):
        first.update(both(step), 4)
    second.restore(*first.snapshot())
    for step in (2, 3):
        second.update(both(step), 4)
    expected, _ = unbroken.snapshot()
    for name, tensor in second.snapshot()[0].items():
        assert torch.equal(tensor, expected[name]), name


def test_a_layer_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(
        SettingsError,
        match=r"method\.layer: no layer is called fc9; .* encoder\.0, encoder\.1, dec",
    ):
        cclp(layer="fc9")
    assert cclp(layer="encoder.1").layer == "encoder.1"


def test_another_librarys_network_needs_a_layer_named():
    body = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 1))
    foreign = ForeignNetwork(body, alignment=(1, 1, 1), classifier="2")
    with pytest.raises(
        SettingsError, match=r"last hidden layer is not known; name one of 0, 1, 2"
    ):
        cclp(foreign)
    method = cclp(foreign, layer="1")
    method(both(), CLOCK)["compact_clusters"].backward()
    assert body[0].weight.grad.abs().sum() > 0
    assert body[2].weight.grad is None


def test_options_of_unlabelled_voxels_need_some():
    with pytest.raises(ValueError, match=r"unlabelled_voxels is 0.* out batch_size"):
        CclpConfig(unlabelled_voxels=0, batch_size=3)
