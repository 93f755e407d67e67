"""A 2D network on volumes says of every slice what it says of it alone."""

import pytest
import torch

from foveal import building
from foveal.networks.slices import SliceBySlice

VALID = {"features": (2, 2), "factors": (1, 3), "hidden_features": (3,)}
PADDED = {"features": (2, 3), "kernels": ((3, 3),) * 2, "strides": ((2, 4),)}


def network_2d(name, options):
    torch.manual_seed(0)
    options = {"deepmedic2d": VALID, "unet2d": PADDED}[name] | options
    if name == "deepmedic2d":
        options |= {"residual_layers": (), "hidden_dropout_fractions": (0.0,)}
    return building.network(name, in_channels=2, num_classes=3, **options)


def volumes(network, axis, slices=3):
    """Two, whose planes are the smallest that the network takes."""
    plane = network.fitting_shape((13, 14))
    shape = [*plane[:axis], slices, *plane[axis:]]
    return torch.randn(2, 2, *shape)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("name", ["unet2d", "deepmedic2d"])
def test_logits_and_image_logits_are_those_of_each_slice(name, axis, layout):
    network = network_2d(name, {}).eval()
    whole = SliceBySlice(network, axis).eval()
    image = volumes(network, axis).contiguous(memory_format=layout)
    with torch.no_grad():
        logits = whole(image).logits
        of_images = whole.image_logits(image)
        of_slices = [network(each).logits for each in image.unbind(2 + axis)]
        of_planes = [network.image_logits(each) for each in image.unbind(2 + axis)]
    assert tuple(logits.shape[2:]) == whole.output_shape(image.shape[2:])
    torch.testing.assert_close(
        logits, torch.stack(of_slices, 2 + axis), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        of_images, torch.stack(of_planes).mean(0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_geometry_is_that_of_the_plane_and_one_slice(axis):
    padded = SliceBySlice(network_2d("unet2d", {"norm": "none"}), axis)
    alignment = [2, 4]
    alignment.insert(axis, 1)
    assert padded.alignment == tuple(alignment)
    assert padded.padding == "same"
    assert padded.margins == ((0, 0),) * 3
    field = list(padded.network.receptive_field)
    field.insert(axis, 1)
    assert padded.receptive_field == tuple(field)
    assert padded.classifier_names == ("network.classifiers",)

    valid = SliceBySlice(network_2d("deepmedic2d", {}), axis)
    margins = list(valid.network.margins)
    margins.insert(axis, (0, 0))
    assert valid.padding == "valid"
    assert valid.margins == tuple(margins)
    assert [field[axis] for field in valid.pathway_fields] == [1, 1]
    assert valid.alignment[axis] == 1
    # An instance norm sees the whole slice.
    assert SliceBySlice(network_2d("unet2d", {}), axis).receptive_field is None


def test_taps_and_deep_supervision_keep_slices_where_they_were():
    options = {
        "features": (2, 3, 3),
        "kernels": ((3, 3),) * 3,
        "strides": ((2, 2),) * 2,
        "deep_supervision": True,
    }
    network = network_2d("unet2d", options).train()
    image = volumes(network, 1)
    output = SliceBySlice(network, 1)(image, taps=("encoder.1",))
    (coarse,) = output.coarse_logits
    i, slices, k = image.shape[2:]
    assert coarse.shape == (2, 3, i // 2, slices, k // 2)
    # Activations stay one after another: all slices of the first volume, then ...
    (activation,) = output.activations
    first_of_second = network(image[1:, :, :, 0], taps=("encoder.1",)).activations[0]
    torch.testing.assert_close(activation[slices : slices + 1], first_of_second)
