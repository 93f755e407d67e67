"""The domain discriminator's size and geometry, and what it takes from DeepMedic."""

import torch
from torch import nn

from foveal import building
from foveal.networks.discriminator import DomainDiscriminator

TAPS = ("sharp.4", "sharp.6", "sharp.8", "wide.4", "wide.6", "wide.8", "hidden.2")
"""Of the thesis, section 5.2.4."""


def test_kernels_have_the_thesis_number_of_weights():
    discriminator = DomainDiscriminator(410)
    parameters = list(discriminator.parameters())
    assert sum(p.numel() for p in parameters if p.ndim > 1) == 1_917_200
    assert sum(p.numel() for p in parameters) == 1_918_402
    assert "1,917,200" in DomainDiscriminator.__doc__
    assert "1,918,402" in DomainDiscriminator.__doc__


def test_receptive_field_is_the_support_of_the_gradient():
    torch.manual_seed(0)
    discriminator = DomainDiscriminator(2, features=(2, 2, 2, 2)).double()
    # Norms look at the whole batch, whatever its places are.
    for name, layer in discriminator.layers.named_children():
        if isinstance(layer, nn.BatchNorm3d):
            setattr(discriminator.layers, name, nn.Identity())
    for parameter in discriminator.parameters():
        parameter.data = parameter.data.abs() + 0.01
    features = torch.ones(1, 2, 13, 11, 9, dtype=torch.double, requires_grad=True)
    logits = discriminator(features)
    assert logits.shape == (1, 2, 5, 3, 1)
    logits[0, 0, 2, 1, 0].backward()
    touched = features.grad.abs().sum(dim=(0, 1)).nonzero()
    assert touched.min(dim=0).values.tolist() == [2, 1, 0]
    assert touched.max(dim=0).values.tolist() == [10, 9, 8]
    assert discriminator.receptive_field == (9, 9, 9)


def test_features_may_be_of_any_scale_and_their_batch_leaves_no_trace():
    torch.manual_seed(0)
    discriminator = DomainDiscriminator(2, features=(3, 3, 3, 3))
    features = torch.randn(4, 2, 9, 9, 9)
    scale = torch.tensor([1e2, 1e-1]).reshape(1, 2, 1, 1, 1)
    told = discriminator(features)
    torch.testing.assert_close(
        told, discriminator(scale * features + 7), rtol=1e-2, atol=1e-2
    )
    assert not list(discriminator.buffers())


def test_it_judges_what_deepmedic_found_of_a_training_patch():
    torch.manual_seed(0)
    segmenter = building.network("deepmedic-thesis", in_channels=1, num_classes=2)
    segmenter.train()
    image = torch.randn(2, 1, *segmenter.fitting_shape((55, 55, 55)))
    output = segmenter(image, taps=TAPS)
    assert output.logits.shape == (2, 2, 9, 9, 9)
    features = torch.cat(
        [
            segmenter.at_output(name, activation, (9, 9, 9))
            for name, activation in zip(TAPS, output.activations, strict=True)
        ],
        dim=1,
    )
    discriminator = DomainDiscriminator(features.shape[1])
    logits = discriminator(features)
    assert features.shape == (2, 410, 9, 9, 9)
    assert logits.shape == (2, 2, 1, 1, 1)
    # The segmenter learns from it: gradients reach the first layer of both pathways.
    logits[0, 1].sum().backward()
    for pathway in segmenter.pathways.values():
        gradient = pathway.chain.layers[0].convolution.weight.grad
        assert float(gradient.abs().sum()) > 0
