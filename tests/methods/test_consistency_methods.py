"""Consistency and mean teacher: what is compared, what learns, and resuming."""

import copy
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric
from made_up_setting import NO_CHANGES, NO_MOVES, batch, setting

from foveal.building import network
from foveal.engine.training import Training, UpdateRules
from foveal.inference.numerics import Numerics
from foveal.methods.consistency import Consistency
from foveal.methods.interface import Clock
from foveal.methods.mean_teacher import MeanTeacher
from foveal.networks.layer_names import layers_named, rate_factors
from foveal.networks.slices import SliceBySlice

SIZE = (8, 8, 8)
MOVES = replace(
    NO_MOVES, rotation_probability=1.0, elastic_probability=0.5, mirror_probability=0.5
)
CHANGES = replace(NO_CHANGES, noise_probability=1.0, gamma_probability=0.5)
METHODS = ("consistency", "mean_teacher")


def unet(norm="batch", dropout_fraction=0.2):
    return network(
        "unet3d",
        in_channels=1,
        num_classes=3,
        features=(4, 8),
        kernels=((3, 3, 3),) * 2,
        strides=((2, 2, 2),),
        norm=norm,
        dropout_fraction=dropout_fraction,
    )


def made(name, trained=None, size=SIZE, moves=MOVES, changes=CHANGES, **options):
    around = setting(trained or unet(), size, spatial=moves, intensity=changes)
    chosen = {
        "weight": 1.0,
        "ramp_up_fraction": 0.0,
        "threshold": 0.0,
        "batch_size": None,
    }
    if name == "mean_teacher":
        return MeanTeacher(around, **{**chosen, "decay": 0.9, **options})
    chosen |= {"temperature": 0.5, "annealing": "none"}
    return Consistency(around, **{**chosen, **options})


def batches(step=0, size=SIZE):
    return {
        "labelled": batch(size, seed=2 * step, labelled=True),
        "unlabelled": batch(size, seed=2 * step + 1, labelled=False),
    }


def training(method):
    parameters = method.parameter_groups()["network"]
    return Training(
        method,
        {"network": torch.optim.AdamW(parameters, lr=1e-2)},
        Fabric(accelerator="cpu", devices=1),
        numerics=Numerics("float32", "contiguous"),
        rules=UpdateRules(lambda step, total: 1.0, 10.0, ema_decay=0.0),
        seed=3,
    )


def terms_of(method, step=0, total=10, size=SIZE):
    torch.manual_seed(step)
    return method(batches(step, size), Clock(step, total, seed=0, rank=0))


@pytest.mark.parametrize("name", METHODS)
def test_resumed_in_the_middle_equals_unbroken_to_the_bit(name):
    torch.manual_seed(0)
    options = {"ramp_up_fraction": 0.5, "batch_size": 1}
    if name == "consistency":
        options |= {"annealing": "log", "threshold": 0.4}
    unbroken = training(made(name, **options))
    for step in range(2):
        unbroken.update(batches(step), 4)
    kept = unbroken.snapshot()
    torch.manual_seed(1)
    resumed = training(made(name, **options))
    resumed.restore(*kept)
    for each in (unbroken, resumed):
        for step in range(2, 4):
            each.update(batches(step), 4)
    first, second = unbroken.snapshot()[0], resumed.snapshot()[0]
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, kept[0][name]) for name, tensor in first.items())


@pytest.mark.parametrize("name", METHODS)
def test_same_views_of_a_network_without_chance_agree(name):
    trained = unet(norm="instance", dropout_fraction=0.0)
    options = {"temperature": 1.0} if name == "consistency" else {}
    method = made(name, trained, moves=NO_MOVES, changes=NO_CHANGES, **options)
    assert terms_of(method)["consistency"].item() == pytest.approx(0.0, abs=1e-6)
    assert method.measures()["consistency"].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_weight_and_its_rise_scale_the_term_and_leave_the_measure(name):
    method = made(name, weight=3.0, ramp_up_fraction=0.8)
    terms = terms_of(method, step=2)
    measured = method.measures()["consistency"]
    assert measured > 0
    torch.testing.assert_close(terms["consistency"], 3.0 * 2 / 8 * measured)
    assert terms.keys() == {"cross_entropy", "dice", "consistency"}


@pytest.mark.parametrize("name", METHODS)
def test_unlabelled_patches_do_not_change_the_statistics_of_batch_norms(name):
    alone = unet(dropout_fraction=0.0)
    method = made(name, copy.deepcopy(alone))
    terms_of(method)
    alone(batches()["labelled"].image)
    for key, buffer in alone.named_buffers():
        assert torch.equal(buffer, method.networks[-1].get_buffer(key)), key


@pytest.mark.parametrize("name", METHODS)
def test_a_threshold_that_no_voxel_reaches_leaves_only_labels(name):
    method = made(name, threshold=1.0)
    terms = terms_of(method)
    assert terms["consistency"].item() == 0.0
    terms["consistency"].backward()
    for parameter in method.parameter_groups()["network"]:
        assert parameter.grad is None or not parameter.grad.any()
    measured = method.measures()
    assert measured["confident_fraction"] == measured["structure_fraction"] == 0.0


def test_no_gradient_flows_through_the_first_view():
    method = made("consistency", unet(dropout_fraction=0.0))
    torch.manual_seed(0)
    seen = []
    method.network.register_forward_hook(lambda _m, _i, out: seen.append(out.logits))
    terms_of(method)["consistency"].backward()
    labelled, first, second = seen
    assert [each.requires_grad for each in seen] == [True, False, True]
    assert first.shape == second.shape == labelled.shape


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["slices", "deepmedic"])
def test_every_geometry_of_networks_is_compared_where_it_predicts(name, kind):
    torch.manual_seed(0)
    if kind == "slices":
        plane = network(
            "unet2d",
            in_channels=1,
            num_classes=3,
            features=(4, 8),
            kernels=((3, 3),) * 2,
            strides=((2, 2),),
        )
        trained, size = SliceBySlice(plane, 2), (8, 8, 1)
    else:
        trained = network(
            "deepmedic-shallow",
            in_channels=1,
            num_classes=3,
            features=(2,) * 4,
        )
        size = trained.fitting_shape([n + 9 for n in trained.fitting_shape((1, 1, 1))])
    method = made(name, trained, size)
    terms = terms_of(method, size=size)
    terms["consistency"].backward()
    gradients = [p.grad for p in method.parameter_groups()["network"]]
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)
    assert all(g is None or g.isfinite().all() for g in gradients)


def test_the_teacher_is_the_average_of_the_student_and_predicts():
    torch.manual_seed(0)
    method = made("mean_teacher")
    assert method.predictor is method.teacher
    assert method.networks == [method.teacher, method.student]
    begun = {name: t.clone() for name, t in method.teacher.state_dict().items()}
    made_training = training(method)
    made_training.update(batches(0), 4)
    student = method.student.state_dict()
    for name, tensor in method.teacher.state_dict().items():
        expected = student[name]
        if tensor.is_floating_point():
            # The first update keeps (1 + 1) / (10 + 1).
            expected = 2 / 11 * begun[name] + 9 / 11 * student[name]
        torch.testing.assert_close(tensor, expected)
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    predicted = made_training.frozen_predictor().state_dict()
    assert all(
        torch.equal(tensor, predicted[name])
        for name, tensor in method.teacher.state_dict().items()
    )


def test_frozen_layers_and_slower_ones_are_the_students_and_the_teachers():
    method = made("mean_teacher")
    layers = layers_named(method, "classifiers", "transfer.freeze")
    assert layers == [method.student.classifiers, method.teacher.classifiers]
    factors = rate_factors(method, {"classifiers": 0.1}, "factors")
    assert set(factors) == set(method.student.classifiers.parameters())


def test_annealing_leaves_out_what_the_network_knows_and_says_how_much():
    torch.manual_seed(0)
    method = made("consistency", annealing="exp")
    early = terms_of(method, step=0, total=100)
    fraction = method.measures()["annealed_fraction"].item()
    assert 0 < fraction < 1
    without = made("consistency", method.network)
    assert terms_of(without)["cross_entropy"] < early["cross_entropy"]
    terms_of(method, step=99, total=100)
    assert method.measures()["annealed_fraction"].item() == pytest.approx(0, abs=1e-3)
