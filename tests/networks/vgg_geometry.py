"""How far one voxel of an image is seen, in networks that pool maxima."""

import torch


def with_generic_weights(network):
    """Positive weights and no biases, so that nothing is cut off or cancelled."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.weight.data.uniform_(0.1, 0.2)
            module.bias.data.zero_()
        if isinstance(module, torch.nn.BatchNorm2d):
            module.bias.data.zero_()
    return network.double().eval()


def leaning(network, end):
    """Make kernels strongest at one end, so that the maxima lie outermost there."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            # A transposed kernel writes forwards what a kernel reads backwards.
            is_transposed = isinstance(module, torch.nn.ConvTranspose2d)
            place = -1 if (end == "last") == is_transposed else 0
            if module.weight.shape[-1] > 1:
                module.weight.data[..., place] *= 10
                module.weight.data[..., place, :] *= 10
    return network


@torch.no_grad()
def seen_from(network, length, axis, end):
    """First and last output, relative to it, that a single bright voxel changes.

    Args:
        network: With generic weights.
        length: Of the image, far longer than what is seen.
        axis: Along which to look.
        end: Towards which images get brighter, so that maxima are found there.
    """
    along = torch.linspace(1, 2, length, dtype=torch.double)
    ramp = (along if end == "last" else along.flip(0)).view(1, 1, -1, 1)
    ramp = ramp.expand(1, 1, length, 3)
    # One image at a time: rounding must be the same wherever nothing changes.
    without = network(ramp if axis == 0 else ramp.transpose(2, 3)).logits
    reach = []
    for phase in range(32):
        place = length // 2 // 32 * 32 + phase
        image = ramp.clone()
        # What little arrives at the farthest output must still be told from 1.
        image[0, 0, place] = 1e60
        logits = network(image if axis == 0 else image.transpose(2, 3)).logits
        changed = (logits != without)[0].any(dim=0).any(dim=1 - axis)
        touched = changed.nonzero().flatten() - place
        reach += [int(touched.min()), int(touched.max())]
    return min(reach), max(reach)
