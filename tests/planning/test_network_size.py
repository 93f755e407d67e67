import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.errors import SettingsError
from foveal.planning.memory import Budget, unet_training_bytes, unet_training_flops
from foveal.planning.network_size import choose_network, unet_stages

CPU = Budget("cpu", 8e9, 120e9, "made up")
GPU = Budget("gpu", 8e9, 12e12, "made up")


def choose(shape, spacing=(1.0, 1.0, 1.0), budget=CPU):
    return choose_network(shape, spacing, in_channels=1, num_classes=3, budget=budget)


def test_a_small_volume_gets_the_patch_nearest_to_it():
    chosen = choose((36, 50, 35))

    assert chosen.patch_size == (32, 48, 32)
    assert chosen.network.features == (16, 32, 64, 128)
    assert chosen.batch_size == 2


def test_a_gpu_gets_a_wider_network_and_a_larger_batch():
    chosen = choose((36, 50, 35), budget=GPU)

    assert chosen.patch_size == (32, 48, 32)
    assert chosen.network.features == (32, 64, 128, 256)
    assert chosen.batch_size == 8


def test_a_large_volume_keeps_its_proportions():
    chosen = choose((200, 100, 100))

    i, j, k = chosen.patch_size
    assert j == k
    assert i / j == pytest.approx(2.0, rel=0.2)
    assert chosen.batch_size == 2
    assert any("arithmetic" in reason for reason in chosen.reasons)


def test_little_memory_shrinks_the_patch_and_says_so():
    small = Budget("cpu", 0.3e9, 120e9, "made up")

    chosen = choose((128, 128, 128), budget=small)

    assert max(chosen.patch_size) < 56
    assert any("exceed the memory" in reason for reason in chosen.reasons)


def test_too_little_memory_is_refused():
    with pytest.raises(SettingsError, match=r"at least .* GB; there are 0\.0001 GB"):
        choose((128, 128, 128), budget=Budget("cpu", 1e5, 120e9, "made up"))


def test_too_little_arithmetic_still_gives_the_smallest_patch():
    chosen = choose((128, 128, 128), budget=Budget("cpu", 8e9, 1.0, "made up"))

    assert chosen.patch_size == (16, 16, 16)
    assert chosen.batch_size == 2


def test_isotropic_axes_are_halved_together():
    kernels, strides = unet_stages((40, 56, 40), (1, 1, 1), 5)

    assert kernels == ((3, 3, 3),) * 4
    assert strides == ((2, 2, 2),) * 3


def test_a_coarse_axis_waits_until_the_others_have_caught_up():
    kernels, strides = unet_stages((128, 128, 16), (1.0, 1.0, 6.0), 5)

    # Spacings in plane per stage: 1, 2, 4, 8, 16; the third axis joins at 4.
    assert strides == ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    assert kernels == ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_a_flat_axis_is_neither_halved_nor_convolved():
    kernels, strides = unet_stages((64, 64, 1), (8.0, 8.0, 1.0), 3)

    assert kernels == ((3, 3, 1),) * 3
    assert strides == ((2, 2, 1),) * 2


@given(
    st.tuples(*[st.floats(1, 600)] * 3),
    st.tuples(*[st.floats(0.3, 8)] * 3),
    st.sampled_from([CPU, GPU]),
)
def test_every_choice_fits_the_network_and_the_budget(shape, spacing, budget):
    chosen = choose(shape, spacing, budget)

    network, size = chosen.network, chosen.patch_size
    for length, step in zip(size, network.alignment, strict=True):
        assert length % step == 0
        assert step == 1 or length // step >= 4
    assert len(network.kernels) == len(network.features) == len(network.strides) + 1
    assert chosen.batch_size >= 2
    work = unet_training_flops(network, size, chosen.batch_size)
    needed = unet_training_bytes(network, size, chosen.batch_size)
    assert needed <= budget.memory_bytes
    assert work <= budget.flops
