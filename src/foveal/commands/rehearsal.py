"""A run tried on a made-up patch, before hours of work rely on it."""

import math

import torch

from foveal import build
from foveal.config import Plan, Settings
from foveal.errors import PluginError, SettingsError
from foveal.methods.interface import Clock, Method
from foveal.methods.supervised import Loss
from foveal.networks.interface import Network, Output
from foveal.plugins.blame import blaming
from foveal.plugins.parts import Parts
from foveal.sampling.batch import Batch

STREAM_CASES = ("labelled",)
"""Cases that training has for the streams of a method."""


def fitting_patch(plan: Plan, planned: Network) -> tuple[int, int, int]:
    """The planned patch, or the next larger that the network can take."""
    i, j, k = (
        step * math.ceil(length / step)
        for length, step in zip(plan.patches.size, planned.alignment, strict=True)
    )
    return i, j, k


def rehearse(settings: Settings, plan: Plan, parts: Parts) -> None:
    """Build everything and, with plugins, try a step before hours of work rely on it.

    Raises:
        SettingsError: Settings and plan do not agree.
        PluginError: A plugin's part fails on a made-up patch.
    """
    trained = build.method(settings, plan, parts)
    for name, stream in trained.streams.items():
        build.sampler(stream.sampler, settings, plan, parts)
        if stream.cases not in STREAM_CASES:
            raise SettingsError(
                f'method {settings.method.name}: stream "{name}" asks for '
                f"{stream.cases} cases; there are {', '.join(STREAM_CASES)}"
            )
    fitting = fitting_patch(plan, trained.predictor)
    if fitting != plan.patches.size:
        raise SettingsError(
            f"patches.size {plan.patches.size} must be divisible by "
            f"{trained.predictor.alignment} for network {plan.network.name}; next "
            f"larger: {fitting}"
        )
    if parts.plugins:
        device = torch.device(build.resolved_device(settings.training.device))
        with blaming([plugin.path for plugin in parts.plugins]):
            for name, (loss, _) in build.losses(settings, parts).items():
                _try_loss(name, loss, plan, device)
            _try_network(trained.predictor.to(device).eval(), plan, device)
            _try_step(trained.to(device).train(), plan, device)


def _try_network(predictor: Network, plan: Plan, device: torch.device) -> None:
    batch = _made_up_batch(plan, device)
    with torch.no_grad():
        output = predictor(batch.image)
    if not isinstance(output, Output):
        raise PluginError(
            f"network {plan.network.name} gives a {type(output).__name__}; let forward "
            "return foveal.networks.interface.Output(logits)"
        )
    expected = (
        1,
        plan.labels.num_classes,
        *predictor.output_shape(plan.patches.size),
    )
    if tuple(output.logits.shape) != expected:
        raise PluginError(
            f"network {plan.network.name} gives logits of shape "
            f"{tuple(output.logits.shape)} for a patch of {plan.patches.size}; "
            f"expected {expected}"
        )


def _try_loss(name: str, loss: Loss, plan: Plan, device: torch.device) -> None:
    batch = _made_up_batch(plan, device)
    shape = (1, plan.labels.num_classes, *plan.patches.size)
    logits = torch.randn(shape, device=device, requires_grad=True)
    value = loss(logits, *batch.labels())
    if not _is_number(value) or not value.requires_grad or not value.isfinite():
        raise PluginError(
            f"loss {name} gives {_described(value)} for noise; it must be one finite "
            "number with a gradient, such as a mean over voxels"
        )


def _try_step(trained: Method, plan: Plan, device: torch.device) -> None:
    batches = {name: _made_up_batch(plan, device) for name in trained.streams}
    terms = trained(batches, Clock(0, 1, 0, 0))
    for name, term in terms.items():
        if not _is_number(term):
            raise PluginError(
                f'loss term "{name}" of the method is {_described(term)}; give a '
                "tensor of one number"
            )
    torch.stack(list(terms.values())).sum().backward()


def _is_number(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == ()


def _described(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return f"{value!r:.80}, no tensor"
    if value.shape != ():
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{value.item()}, {'with' if value.requires_grad else 'without'} a gradient"


def _made_up_batch(plan: Plan, device: torch.device) -> Batch:
    """One patch of noise in which every class occurs."""
    classes = plan.labels.num_classes
    voxels = torch.arange(math.prod(plan.patches.size), device=device)
    noise = torch.randn(
        1, len(plan.preprocessing.channels), *plan.patches.size, device=device
    )
    return Batch(
        image=noise,
        label_map=(voxels % classes).reshape(1, *plan.patches.size).to(torch.uint8),
        annotated=torch.ones(
            1, len(plan.labels.structures), dtype=torch.bool, device=device
        ),
        structures=build.membership(plan).to(device),
        case_names=("made up",),
        corners=((0, 0, 0),),
    )
