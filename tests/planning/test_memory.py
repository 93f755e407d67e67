from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.errors import SettingsError
from foveal.planning import memory
from foveal.planning.memory import (
    UNetShape,
    available_memory_bytes,
    cgroup_limit_bytes,
    training_budget,
    unet_training_bytes,
    unet_training_flops,
)

SMALL = UNetShape(1, 3, (16, 32, 64, 128), ((3, 3, 3),) * 4, ((2, 2, 2),) * 3)
ONE_STAGE = UNetShape(1, 2, (4,), ((3, 3, 3),), ())


def test_arithmetic_of_one_stage_is_counted_by_hand():
    # Per voxel: 27 x 1 x 4 and 27 x 4 x 4 taps, then 4 x 2 of the classifier; a product
    # and a sum each; forward once, backward twice; 10 voxels, 3 patches.
    expected = 3 * 2 * (27 * 4 + 27 * 16 + 8) * 10 * 3

    assert unet_training_flops(ONE_STAGE, (10, 1, 1), 3) == expected


def test_memory_of_one_stage_is_counted_by_hand():
    # Per voxel: two convolutions of 4 channels kept 3 times, image, 10 x 2 logits, four
    # gradients of 4 channels; weights of both convolutions and the classifier.
    per_voxel = 2 * 4 * 3 + 1 + 10 * 2 + 4 * 4
    weights = 27 * 4 + 27 * 16 + 8
    expected = 4 * (3 * 10 * per_voxel + 4 * weights)

    assert unet_training_bytes(ONE_STAGE, (10, 1, 1), 3) == expected


def test_the_small_network_at_batch_4_takes_about_115_gflop():
    work = unet_training_flops(SMALL, (40, 56, 40), 4)

    assert work == pytest.approx(115e9, rel=0.02)


def test_the_estimate_is_close_to_the_memory_measured():
    # Peak of the resident memory in float32, see docs/planning.md.
    measured = 617e6

    estimate = unet_training_bytes(SMALL, (40, 56, 40), 4)

    assert estimate == pytest.approx(measured, rel=0.2)


@given(st.integers(1, 8), st.integers(1, 4))
def test_larger_steps_cost_more(batch_size, eighths):
    size = (8 * eighths, 16, 16)
    larger = (8 * eighths + 8, 16, 16)
    for cost in (unet_training_bytes, unet_training_flops):
        assert cost(SMALL, size, batch_size) < cost(SMALL, size, batch_size + 1)
        assert cost(SMALL, size, batch_size) < cost(SMALL, larger, batch_size)


def test_alignment_is_the_product_of_the_strides():
    network = UNetShape(1, 2, (8, 16, 32), ((3, 3, 3),) * 3, ((1, 2, 2), (2, 2, 2)))

    assert network.alignment == (2, 4, 4)


def test_a_stated_memory_is_used_whole():
    budget = training_budget("cpu", memory_gb=3.0, threads=2)

    assert budget.memory_bytes == 3e9
    assert budget.origin == "the 3 GB stated"


def test_arithmetic_grows_with_the_threads():
    assert training_budget("cpu", memory_gb=1.0, threads=2).flops == 120e9
    assert training_budget("cpu", memory_gb=1.0, threads=4).flops == 240e9


def test_without_a_statement_half_of_the_memory_found_is_used(monkeypatch):
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: 8_000_000_000)

    budget = training_budget("cpu", threads=1)

    assert budget.memory_bytes == 4e9
    assert budget.origin == "half of the 8.0 GB of RAM available"


def test_a_gpu_is_taken_automatically_with_its_own_memory(monkeypatch):
    monkeypatch.setattr(memory, "cuda_free_bytes", lambda: 20_000_000_000)

    budget = training_budget("auto", threads=2)

    assert (budget.device, budget.memory_bytes) == ("gpu", 10e9)


def test_an_absent_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "cuda_free_bytes", lambda: None)
    with pytest.raises(SettingsError, match="no CUDA GPU"):
        training_budget("cuda", threads=2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"threads": 2, "memory_gb": 0.0}, "must be above 0"),
        ({"threads": 0}, "at least 1"),
    ],
)
def test_an_impossible_budget_is_refused(options, match):
    with pytest.raises(SettingsError, match=match):
        training_budget("cpu", **options)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_the_smallest_limit_of_nested_groups_counts_in_cgroup_v2(tmp_path):
    write(tmp_path / "proc/self/cgroup", "0::/jobs/job7\n")
    write(tmp_path / "sys/fs/cgroup/jobs/job7/memory.max", "max\n")
    write(tmp_path / "sys/fs/cgroup/jobs/memory.max", "5000\n")

    assert cgroup_limit_bytes(tmp_path) == 5000


def test_a_container_that_sees_its_group_at_the_top_is_limited(tmp_path):
    write(tmp_path / "proc/self/cgroup", "4:cpu,memory:/docker/abc\n1:cpu:/docker\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", "7000\n")

    assert cgroup_limit_bytes(tmp_path) == 7000


def test_no_limit_is_found_without_groups_or_with_the_v1_maximum(tmp_path):
    assert cgroup_limit_bytes(tmp_path) is None
    write(tmp_path / "proc/self/cgroup", "4:memory:/\n")
    write(
        tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes",
        "9223372036854771712\n",
    )
    assert cgroup_limit_bytes(tmp_path) is None


@pytest.mark.parametrize(("limit", "expected"), [(None, 900), (400, 400), (2000, 900)])
def test_the_smaller_of_free_and_allowed_memory_counts(monkeypatch, limit, expected):
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(available=900)
    )
    monkeypatch.setattr(memory, "cgroup_limit_bytes", lambda: limit)

    assert available_memory_bytes() == expected
