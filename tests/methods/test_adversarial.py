"""Adversarial adaptation: whose gradients go where, when, and what is left alone."""

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from foveal import building
from foveal.config.methods import AdversarialConfig
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.engine.training import Training, UpdateRules
from foveal.errors import SettingsError
from foveal.inference.numerics import Numerics
from foveal.losses.cross_entropy import cross_entropy
from foveal.methods.adversarial import (
    Adversarial,
    alpha_at,
    balanced_accuracy,
    domain_loss,
    even_loss,
    random_window,
)
from foveal.methods.interface import Clock, Setting
from foveal.methods.labelled_loss import LabelledLoss
from foveal.methods.supervised import Supervised
from foveal.networks.foreign import ForeignNetwork
from foveal.networks.slices import SliceBySlice
from foveal.sampling.batch import Batch

LATE = Clock(step=9, total_steps=10, seed=0, rank=0)
"""Alpha is ``alpha_max`` then."""

EARLY = Clock(step=0, total_steps=10, seed=0, rank=0)
STRUCTURES = torch.tensor([[False, True]])
PLAN = Plan.model_validate(
    {
        "dataset_name": "made up",
        "labels": {"names": ("lesion",), "values": (1,)},
        "preprocessing": {
            "spacing_mm": (1.0, 1.0, 1.0),
            "channels": [
                {"name": name, "normalisation": "zscore"} for name in ("T1", "T2")
            ],
        },
        "patches": {"size": (12, 12, 12), "batch_size": 2},
        "network": {"name": "unet3d"},
    }
)
LOSSES = {"cross_entropy": (cross_entropy, 1.0)}


def unet(name="unet3d", norm="batch", **options):
    dimensions = 2 if name == "unet2d" else 3
    return building.network(
        name,
        in_channels=2,
        num_classes=2,
        features=(3, 4),
        kernels=((3,) * dimensions,) * 2,
        strides=((2,) * dimensions,),
        norm=norm,
        **options,
    )


def method(network=None, *, seed=0, size=(12, 12, 12), **options):
    torch.manual_seed(seed)
    setting = Setting(
        network=unet() if network is None else network,
        labelled_loss=LabelledLoss(LOSSES),
        sampler="uniform",
        batch_size=2,
        in_channels=2,
        patch_size=size,
        spacing_mm=(1.0, 1.0, 1.0),
        structures=STRUCTURES,
        spatial=building.spatial_augmentation(Settings(), PLAN),
        intensity=building.intensity_augmentation(Settings(), PLAN),
    )
    return Adversarial(setting, **({"features": (5, 5, 5, 5)} | options))


def batches(size=(12, 12, 12), number=2, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def of(name, offset):
        image = torch.randn(number, 2, *size, generator=generator, dtype=dtype)
        labels = (image[:, 0] > 0.5).to(torch.uint8)
        return Batch(
            image=image + offset,
            label_map=labels if name == "labelled" else None,
            annotated=torch.ones(number, 1, dtype=torch.bool),
            structures=STRUCTURES,
            case_names=("made up",) * number,
            corners=((0, 0, 0),) * number,
        )

    return {"labelled": of("labelled", 0), "source": of("s", 0), "target": of("t", 3)}


def gradients(module, loss):
    return torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)


def test_the_networks_gradient_is_that_of_outlines_minus_alpha_times_that_of_domains():
    made = method(alpha_max=0.3).double()
    drawn = batches(dtype=torch.float64)
    terms = made(drawn, LATE)
    assert terms.keys() == {"cross_entropy", "domain"}
    both = torch.stack(list(terms.values())).sum()
    found = gradients(made.network, both)
    made = method(alpha_max=0.3).double()
    of_critic = gradients(made.discriminator, made(drawn, LATE)["domain"])
    # The two of them apart, without any reversal; running statistics as before.
    made = method(alpha_max=0.3).double()
    output = made.network(drawn["labelled"].image)
    supervised = made.labelled_loss(made.network, output, drawn["labelled"])
    segmenter = gradients(made.network, supervised["cross_entropy"])
    features = made.features(torch.cat([drawn["source"].image, drawn["target"].image]))
    adversary = domain_loss(made.discriminator(features), torch.tensor([0, 0, 1, 1]))
    of_domain = torch.autograd.grad(
        adversary,
        [*made.network.parameters(), *made.discriminator.parameters()],
        allow_unused=True,
    )
    ours, theirs = of_domain[: len(found)], of_domain[len(found) :]
    seen = 0
    for total, g_seg, g_adv in zip(found, segmenter, ours, strict=True):
        # The classifier reads what is adapted; no domain reaches its weights.
        expected = g_seg if g_adv is None else g_seg - 0.3 * g_adv
        seen += g_adv is not None and bool(g_adv.abs().max() > 1e-6)
        torch.testing.assert_close(total, expected, rtol=0, atol=1e-10)
    assert seen > 5
    for total, g_adv in zip(of_critic, theirs, strict=True):
        assert g_adv.abs().max() > 0
        torch.testing.assert_close(total, g_adv, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", ["confusion", "flipped"])
def test_other_forms_keep_both_sides_apart(form):
    drawn = batches(dtype=torch.float64)
    both = torch.cat([drawn["source"].image, drawn["target"].image])

    def made():
        return method(alpha_max=0.3, form=form).double().eval()

    trained = made()
    terms = trained(drawn, LATE)
    assert terms.keys() == {"cross_entropy", "domain", "confusion"}
    found = gradients(trained.network, terms["confusion"])
    trained = made()
    terms = trained(drawn, LATE)
    of_critic = gradients(trained.discriminator, terms["confusion"])
    assert all(each is None for each in of_critic)
    assert all(each is None for each in gradients(trained.network, terms["domain"]))
    logits = trained.discriminator(trained.features(both))
    expected = 0.3 * (
        even_loss(logits)
        if form == "confusion"
        else domain_loss(logits, torch.tensor([1, 1, 0, 0]))
    )
    torch.testing.assert_close(terms["confusion"], expected)
    wanted = gradients(trained.network, expected)
    assert sum(each is not None for each in wanted) > 5
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_losses_by_hand():
    even = torch.zeros(2, 2, 3, 1, 1)
    domains = torch.tensor([0, 1])
    assert float(domain_loss(even, domains)) == pytest.approx(0.693147, abs=1e-6)
    assert float(even_loss(even)) == pytest.approx(0.693147, abs=1e-6)
    sure = even.clone()
    sure[0, 0], sure[1, 1] = 4.0, 4.0
    assert float(domain_loss(sure, domains)) == pytest.approx(0.018150, abs=1e-6)
    assert float(even_loss(sure)) == pytest.approx(2.018150, abs=1e-6)
    assert domain_loss(sure.bfloat16(), domains).dtype == torch.float32
    # Three decisions per patch; the first domain has twice as many patches.
    told = torch.zeros(3, 2, 3)
    told[:, 1] = torch.tensor([[1.0, -1, -1], [-1, -1, -1], [1, 1, -1]])
    accuracy = balanced_accuracy(told, torch.tensor([0, 0, 1]))
    assert float(accuracy) == pytest.approx((5 / 6 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("step", "alpha"), [(0, 0), (20, 0), (45, 0.25), (70, 0.5), (99, 0.5)]
)
def test_alpha_rises_between_two_corners(step, alpha):
    options = {"alpha_max": 0.5, "begin_fraction": 0.2, "full_fraction": 0.7}
    assert alpha_at(Clock(step, 100, 0, 0), **options) == pytest.approx(alpha)


def test_only_weights_that_are_adapted_may_be_the_best():
    adapted = method(alpha_max=0.1, full_fraction=0.7)
    assert [adapted.may_be_best(done) for done in (0.2, 0.69, 0.7, 1.0)] == [0, 0, 1, 1]
    assert method(alpha_max=0.0).may_be_best(0.1)


def test_alpha_may_jump_and_may_rise_from_the_first_step_on():
    jump = {"alpha_max": 0.5, "begin_fraction": 0.3, "full_fraction": 0.3}
    found = [alpha_at(Clock(step, 10, 0, 0), **jump) for step in (2, 3, 4)]
    assert found == [0.0, 0.5, 0.5]
    rise = {"alpha_max": 0.5, "begin_fraction": 0.0, "full_fraction": 1.0}
    found = [alpha_at(Clock(step, 10, 0, 0), **rise) for step in (0, 1, 5)]
    assert found == pytest.approx([0.0, 0.05, 0.25])


@pytest.mark.parametrize("form", ["reversal", "confusion", "flipped"])
def test_while_alpha_is_0_the_network_learns_as_without_domains(form):
    made = method(form=form)
    torch.manual_seed(0)
    alone = Supervised(unet(), LOSSES, sampler="uniform", batch_size=2)
    for trained in (made, alone):
        optimiser = torch.optim.SGD(trained.parameters(), 0.1, momentum=0.9)
        for _ in range(2):
            optimiser.zero_grad()
            terms = trained(batches(), EARLY)
            torch.stack(list(terms.values())).sum().backward()
            assert all(each.grad is not None for each in trained.parameters())
            optimiser.step()
    states = made.network.state_dict(), alone.network.state_dict()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_domain_batches_leave_batch_norms_alone():
    made = method().train()
    before = {name: each.clone() for name, each in made.network.named_buffers()}
    assert before
    image = batches()["target"].image
    first = made.features(image)
    for name, each in made.network.named_buffers():
        assert torch.equal(each, before[name]), name
    # Nor are they normalised by one another.
    alone = made.features(image[:1])
    torch.testing.assert_close(first[:1], alone)
    assert all(module.training for module in made.network.modules())


def test_halves_are_equal_and_uniform():
    streams = method(batch_size=6, source=("A",), target=("B", "C")).streams
    assert streams["labelled"] == ("labelled", "uniform", 2, ())
    assert streams["source"] == ("source", "uniform", 3, ("A",))
    assert streams["target"] == ("target", "uniform", 3, ("B", "C"))
    # The thesis has 10 labelled ones and 20 to tell.
    assert method().streams["source"].batch_size == 2
    with pytest.raises(ValueError, match="batch_size 5 must be even"):
        AdversarialConfig(batch_size=5)
    with pytest.raises(ValueError, match="target names B, and so does source"):
        AdversarialConfig(source=("A", "B"), target=("B",))


def test_a_curriculum_is_of_labelled_patches_and_domains_stay_uniform():
    settings = Settings.model_validate(
        {"sampling": {"adaptive": True}, "error_maps": {"curriculum_steps": 5}}
    )
    cases = {"labelled": [], "source": [], "target": []}
    sources = building.patch_sources(settings, PLAN, method(), cases, rank=0)
    assert sources["labelled"].curriculum.steps == 5
    assert sources["source"].curriculum is sources["target"].curriculum is None


def test_groups_rates_and_measures():
    made = method(learning_rate=0.5, alpha_max=0.25)
    assert made.constant_rates == {"discriminator": 0.5}
    groups = made.parameter_groups()
    numbers = [len(list(groups[name])) for name in ("network", "discriminator")]
    assert sum(numbers) == len(list(made.parameters()))
    assert made.measures() == {}
    made(batches(), LATE)
    measured = made.measures()
    assert float(measured["alpha"]) == 0.25
    assert 0 <= float(measured["discriminator_accuracy"]) <= 1


def test_the_discriminator_learns_to_tell_a_shift_that_nobody_counters():
    size = (10, 10, 10)
    torch.manual_seed(0)
    made = method(unet(norm="none"), alpha_max=0.0, size=size, features=(5, 5))
    optimiser = torch.optim.Adam(made.discriminator.parameters(), 0.01)
    for seed in range(12):
        optimiser.zero_grad()
        made(batches(size, seed=seed, number=2), LATE)["domain"].backward()
        optimiser.step()
    made(batches(size, seed=99, number=2), LATE)
    assert float(made.measures()["discriminator_accuracy"]) > 0.9


def test_of_a_large_output_a_window_at_a_random_place_is_seen():
    torch.manual_seed(0)
    drawn = [random_window((20, 13, 1)) for _ in range(60)]
    assert {each[0].stop - each[0].start for each in drawn} == {13}
    assert {each[0].start for each in drawn} == set(range(8))
    assert all(each[1:] == (slice(0, 13), slice(0, 1)) for each in drawn)
    made = method(size=(20, 12, 12))
    assert made.features(torch.zeros(1, 2, 20, 12, 12)).shape[2:] == (13, 12, 12)


def test_short_axes_have_fewer_layers_that_look_along_them():
    made = method(size=(12, 6, 2))
    assert made.discriminator.receptive_field == (9, 5, 1)
    made(batches((12, 6, 2)), LATE)
    flat = method(SliceBySlice(unet("unet2d"), 1), size=(12, 1, 12))
    assert flat.discriminator.receptive_field == (9, 1, 9)
    terms = flat(batches((12, 1, 12)), LATE)
    assert torch.isfinite(terms["domain"])


def test_layers_are_chosen_by_name_or_by_the_network():
    assert method().layers == ("encoder.1", "decoder.0")
    chosen = method(layers=("encoder.0",))
    assert chosen.features(torch.zeros(1, 2, 12, 12, 12)).shape[1] == 3
    wrong = r"method.layers: no layer is called conv9; there are encoder.0, enc"
    with pytest.raises(SettingsError, match=wrong):
        method(layers=("conv9",))
    body = nn.Sequential(nn.Conv3d(2, 3, 1), nn.Conv3d(3, 2, 1), nn.ModuleList())
    body.forward = lambda image: body[1](body[0](image))
    foreign = ForeignNetwork(body, alignment=(1, 1, 1), classifier="1")
    with pytest.raises(SettingsError, match="adapted by default; name some of 0, 1, 2"):
        method(foreign)
    with pytest.raises(SettingsError, match=r"no layer is called 2; there are 0, 1$"):
        method(foreign, layers=("2",))
    assert method(foreign, layers=("0",)).discriminator.layers[0].num_features == 3


def test_frozen_layers_are_passed_but_not_changed():
    made = method()
    for part in (made.network.encoder, made.network.upsampling):
        part.requires_grad_(False)
    torch.stack(list(made(batches(), LATE).values())).sum().backward()
    assert made.network.encoder[0][0][0].weight.grad is None
    assert made.network.decoder[0][0][0].weight.grad.abs().max() > 0
    made.network.decoder.requires_grad_(False)
    with pytest.raises(SettingsError, match=r"transfer\.freeze keeps all that they"):
        made(batches(), LATE)


@pytest.mark.parametrize(
    ("precision", "form"), [("float32", "reversal"), ("bfloat16", "flipped")]
)
def test_resumed_run_is_the_same_to_the_bit(precision, form):
    def training(seed):
        network = unet(dropout_fraction=0.2)
        made = method(network, seed=seed, form=form, size=(14, 10, 10))
        optimisers = {
            name: torch.optim.AdamW(group, 1e-2)
            for name, group in made.parameter_groups().items()
        }
        return Training(
            made,
            optimisers,
            Fabric(accelerator="cpu", devices=1),
            numerics=Numerics(precision, "channels_last"),
            rules=UpdateRules(lambda step, total: 1.0, 10.0, 0.9),
            seed=5,
        )

    def steps(trained, first, end):
        for step in range(first, end):
            trained.update(batches((14, 10, 10), seed=step), total_steps=4)

    unbroken = training(0)
    steps(unbroken, 0, 2)
    tensors, state = unbroken.snapshot()
    tensors = {name: each.clone() for name, each in tensors.items()}
    steps(unbroken, 2, 4)
    resumed = training(1)
    resumed.restore(tensors, state)
    steps(resumed, 2, 4)
    first, second = unbroken.snapshot(), resumed.snapshot()
    assert first[1] == second[1]
    for name, tensor in first[0].items():
        assert torch.equal(tensor, second[0][name]), name
