"""A run tried on a made-up patch, before hours of work rely on it."""

import contextlib
import math
from collections.abc import Sequence

import torch
from torch.nn.functional import one_hot

from foveal import building
from foveal.config.networks.registry import NETWORK_SECTIONS
from foveal.config.plan import PatchesConfig, Plan
from foveal.config.settings import Settings
from foveal.errors import FovealError, GeometryError, PluginError, SettingsError
from foveal.methods.interface import Clock, Method
from foveal.methods.labelled_loss import Loss
from foveal.networks.interface import Network, Output
from foveal.plugins.blame import blaming
from foveal.plugins.parts import Parts
from foveal.sampling.batch import Batch

LARGEST_PLANE = 512
"""Voxels along either axis of the patches of a 2D network; what is larger is tiled."""

MOST_SLICES = 16
"""Patches per step of a 2D network that the plan was not made for."""

STREAM_CASES = ("labelled", "image_labelled", "unlabelled", "source", "target")
"""Cases that training has for the streams of a method."""


def fitting_patches(plan: Plan, network: Network) -> PatchesConfig:
    """Patches that suit a network that the plan was not made for.

    What its authors used, as far as the cases are as large; otherwise the planned
    patch. Rounded up to what the network can take, and one voxel thick for a 2D one.

    Args:
        plan: Its patches suit the planner's own network.
        network: As built, 2D or 3D.

    Raises:
        SettingsError: The network needs several slices, and the cases have one.
    """
    size, batch_size = plan.patches.size, plan.patches.batch_size
    seen = plan.fingerprint.median_shape if plan.fingerprint else size
    axes: tuple[int, ...] = (0, 1, 2)
    is_2d = len(network.alignment) < len(axes)
    if is_2d:
        slice_axis = _slice_axis(plan)
        axes = tuple(axis for axis in axes if axis != slice_axis)
        if size[slice_axis] > 1:
            # Planned for a 3D network, so less of every plane than a 2D one can take.
            i, j, k = (min(math.ceil(length), LARGEST_PLANE) for length in seen)
            size = i, j, k
    else:
        _require_volumes(network, plan)
    published = plan.network.published_output
    predicted = (
        tuple(
            min(length, math.ceil(seen[axis]))
            # A 3D network built in 2D by its options predicts as much of a slice.
            for axis, length in zip(axes, published[: len(axes)], strict=True)
        )
        if published
        else tuple(size[axis] for axis in axes)
    )
    margins = network.all_margins if published else ((0, 0),) * len(axes)
    fitting = network.fitting_shape(
        [
            before + length + after
            for length, (before, after) in zip(predicted, margins, strict=True)
        ]
    )
    i, j, k = (fitting[axes.index(axis)] if axis in axes else 1 for axis in range(3))
    if is_2d:
        # About as many voxels to a step as the plan found bearable.
        planned = math.prod(plan.patches.size) * batch_size
        slices = min(planned // (i * j * k), MOST_SLICES)
        batch_size = max(batch_size, slices)
    return PatchesConfig(
        size=(i, j, k), batch_size=plan.network.published_batch_size or batch_size
    )


def _networks_2d(plan: Plan) -> list[str]:
    """Names of the networks that see one slice at a time."""
    found = []
    for name, section in NETWORK_SECTIONS.items():
        tried = plan.model_copy(update={"network": section(name=name)})
        # Without memory for weights, of which some networks have many; and without
        # those whose library is not there.
        with contextlib.suppress(FovealError), torch.device("meta"):
            network = building.bare_network(tried)
            if len(network.alignment) < len(plan.patches.size):
                found.append(name)
    return found


def _slice_axis(plan: Plan) -> int:
    """Axis that counts the slices: of one voxel, else the coarsest, else the last."""
    if 1 in plan.patches.size:
        return max(axis for axis in range(3) if plan.patches.size[axis] == 1)
    spacing_mm = plan.preprocessing.spacing_mm
    return max(range(3), key=lambda axis: (spacing_mm[axis], axis))


def rehearse(settings: Settings, plan: Plan, parts: Parts) -> None:
    """Build everything and, with plugins, try a step before hours of work rely on it.

    Raises:
        SettingsError: Settings and plan do not agree.
        PluginError: A plugin's part fails on a made-up patch.
    """
    trained = building.method(settings, plan, parts)
    for name, stream in trained.streams.items():
        building.sampler(stream.sampler, settings, plan, parts)
        if stream.cases not in STREAM_CASES:
            raise SettingsError(
                f'method {settings.method.name}: stream "{name}" asks for '
                f"{stream.cases} cases; there are {', '.join(STREAM_CASES)}"
            )
    _require_volumes(trained.predictor, plan)
    try:
        predicted = trained.predictor.output_shape(plan.patches.size)
    except GeometryError as error:
        raise SettingsError(
            f"patches.size does not suit network {plan.network.name}: {error}"
        ) from error
    building.tiles(settings, plan, trained.predictor)
    building.spatial_augmentation(settings, plan)
    if not settings.transfer.freeze:
        # Frozen batch norms keep the deviations that they have.
        _require_enough_to_norm(plan, trained.task)
    if parts.plugins:
        device = torch.device(building.resolved_device(settings.training.device))
        with blaming([plugin.path for plugin in parts.plugins]):
            for name, (loss, _) in building.losses(settings, plan, parts).items():
                _try_loss(name, loss, plan, predicted, device)
            _try_network(trained.predictor.to(device).eval(), plan, device)
            _try_step(trained.to(device).train(), plan, device)
    # Names of layers may be wrong.
    building.optimisers(settings, trained)
    building.update_rules(settings, trained)


def _require_volumes(predictor: Network, plan: Plan) -> None:
    """Refuse a network that needs several voxels along an axis where cases have one.

    Raises:
        SettingsError: Names the networks that do not.
    """
    if plan.fingerprint is None:
        return
    least = predictor.fitting_shape((1, 1, 1))
    for axis, length in enumerate(plan.fingerprint.median_shape):
        if length <= 1 and least[axis] > 1:
            raise SettingsError(
                f"network {plan.network.name} is 3D, but the cases have one slice; use "
                f"{', '.join(_networks_2d(plan))}, or options with which it takes in "
                f"one voxel along axis {axis}, and not {least[axis]} or more"
            )


def _require_enough_to_norm(plan: Plan, task: str) -> None:
    """Refuse patches of which a norm would see a single value per channel.

    Raises:
        SettingsError: Names the network and what would do.
    """
    # Networks of plugins and of other libraries may need real memory to be built.
    if plan.network.name not in building.NETWORKS or ":" in plan.network.name:
        return
    patches = plan.patches
    with torch.device("meta"):
        # A CRF behind it has no norm, and needs real intensities.
        alone = plan.model_copy(update={"crf_rnn": None})
        network = building.planned_network(alone).train()
        image = torch.empty(
            patches.batch_size, len(plan.preprocessing.channels), *patches.size
        )
    try:
        (network.image_logits if task == "classification" else network)(image)
    except ValueError as error:
        if "Expected more than 1" not in str(error):
            raise
        more = "a larger patches.size"
        if "spatial" not in str(error):
            more = f"patches.batch_size 2 or more, or {more}"
        raise SettingsError(
            f"a norm of network {plan.network.name} would see a single value per "
            f"channel in {patches.batch_size} patch(es) of {patches.size}, and have "
            f"no deviation to divide by; give {more}"
        ) from error


def _try_network(predictor: Network, plan: Plan, device: torch.device) -> None:
    batch = _made_up_batch(plan, plan.patches.size, device)
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


def _try_loss(
    name: str, loss: Loss, plan: Plan, predicted: Sequence[int], device: torch.device
) -> None:
    """Try a loss on the voxels of one patch that the network predicts."""
    batch = _made_up_batch(plan, predicted, device)
    shape = (1, plan.labels.num_classes, *predicted)
    logits = torch.randn(shape, device=device, requires_grad=True)
    value = loss(logits, *batch.labels())
    if not _is_number(value) or not value.requires_grad or not value.isfinite():
        raise PluginError(
            f"loss {name} gives {_described(value)} for noise; it must be one finite "
            "number with a gradient, such as a mean over voxels"
        )


def _try_step(trained: Method, plan: Plan, device: torch.device) -> None:
    batches = {
        name: _made_up_batch(plan, plan.patches.size, device)
        for name in trained.streams
    }
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


def _made_up_batch(plan: Plan, size: Sequence[int], device: torch.device) -> Batch:
    """One patch of noise in which every class occurs."""
    classes = plan.labels.num_classes
    flags = torch.ones(1, len(plan.labels.structures), dtype=torch.bool, device=device)
    voxels = torch.arange(math.prod(size), device=device)
    labels = (voxels % classes).reshape(1, *size)
    noise = torch.randn(1, len(plan.preprocessing.channels), *size, device=device)
    return Batch(
        image=noise,
        label_map=labels.to(torch.uint8),
        annotated=flags,
        structures=building.membership(plan).to(device),
        case_names=("made up",),
        corners=((0, 0, 0),),
        present=flags,
        presence_known=flags,
        voxel_weights=torch.ones(1, *size, device=device),
        soft_labels=one_hot(labels, classes).movedim(-1, 1).float(),
    )
