"""Intervals behind an output voxel, by hand and against PyTorch's gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from foveal.networks.geometry import (
    Interpolate,
    Repeat,
    Shift,
    TransposedWindow,
    Window,
    behind,
    field,
    reach,
)

LENGTH = 96


def by_gradient(function, output):
    image = torch.ones(1, 1, LENGTH, dtype=torch.double, requires_grad=True)
    function(image)[0, 0, output].backward()
    touched = image.grad[0, 0].nonzero().flatten()
    return int(touched.min()), int(touched.max())


def ones(kernel):
    return torch.ones(1, 1, kernel, dtype=torch.double)


@given(
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
)
def test_window_reads_what_a_convolution_reads(kernel, stride, padding, dilation):
    def convolved(image):
        return F.conv1d(
            image, ones(kernel), stride=stride, padding=padding, dilation=dilation
        )

    layer = Window(kernel, stride, padding, dilation)
    assert layer.behind(10, 10) == by_gradient(convolved, 10)


@given(kernel=st.integers(1, 6), stride=st.integers(1, 4), padding=st.integers(0, 2))
def test_transposed_window_reads_what_its_convolution_reads(kernel, stride, padding):
    if kernel < stride or padding >= kernel:
        return  # some outputs would read nothing

    def convolved(image):
        return F.conv_transpose1d(image, ones(kernel), stride=stride, padding=padding)

    layer = TransposedWindow(kernel, stride, padding)
    for output in range(20, 26):
        assert layer.behind(output, output) == by_gradient(convolved, output)


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("kind", "mode"), [(Repeat, "nearest"), (Interpolate, "linear")]
)
def test_upsampling_reads_what_interpolation_reads(factor, kind, mode):
    def upsampled(image):
        return F.interpolate(image, scale_factor=factor, mode=mode)

    for output in range(20, 20 + 2 * factor):
        assert kind(factor).behind(output, output) == by_gradient(upsampled, output)


def test_deepmedics_fields_by_hand():
    sharp = [Shift(-8), *[Window(3)] * 8]
    wide = [Shift(-24), Window(1, 3), *[Window(3)] * 8]
    wide += [Repeat(3)]
    assert behind(sharp, 0, 0) == (-8, 8)
    assert field([sharp], 1) == 17
    assert reach([wide], 3) == (-26, 24)
    assert field([sharp, wide], 3) == 51
