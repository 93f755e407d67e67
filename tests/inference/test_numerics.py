"""Batches in the layout that was chosen."""

import pytest
import torch

from foveal.inference.numerics import with_layout


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "view",
    [
        lambda image: image,
        lambda image: image.transpose(2, 4),
        lambda image: image[:, :, 1:, ::2],
        lambda image: image[:1].expand(3, -1, -1, -1, -1),
    ],
    ids=["whole", "transposed", "sliced", "expanded"],
)
def test_any_view_keeps_its_values(channels, layout, view):
    image = view(torch.arange(2.0 * channels * 3 * 4 * 5).reshape(2, channels, 3, 4, 5))
    laid_out = with_layout(image, layout)
    assert torch.equal(laid_out, image)
    assert laid_out.stride(1) == (
        1 if layout == "channels_last" else laid_out.shape[2:].numel()
    )
