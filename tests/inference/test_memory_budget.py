"""A budget decides what waits on disk, never what comes out."""

import re
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveal.errors import CaseError, SettingsError
from foveal.inference import bricks, memory, predict
from foveal.inference.bricks import Bricks, Cuts
from foveal.inference.memory import (
    MemoryBudget,
    in_memory_words,
    memory_bytes,
    watched_peak,
)
from foveal.inference.predict import stream_logits
from foveal.inference.tiling import AdjoiningTiles, OverlappingTiles


def three_classes(patches):
    """Depend on what lies around, so that tiles differ where they overlap."""
    mean = patches.mean(dim=(2, 3, 4), keepdim=True)
    return torch.cat([patches, patches * mean, mean - patches], dim=1).bfloat16()


def streamed(image, tiles, **options):
    return torch.cat(list(stream_logits(three_classes, image, tiles, 3, **options)), 1)


@pytest.fixture(autouse=True)
def _empty_process(monkeypatch):
    """A process that takes nothing, so that budgets of a few bytes mean something."""
    monkeypatch.setattr(memory, "taken_bytes", lambda: 0)
    monkeypatch.setattr(predict, "taken_bytes", lambda: 0)
    monkeypatch.setattr(predict, "BRICK_BYTES", 1)
    monkeypatch.setattr(predict, "BLOCK_BYTES", 1)


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    shape=st.tuples(*[st.integers(2, 8)] * 3),
    patch=st.tuples(*[st.integers(2, 5)] * 3),
    overlap=st.sampled_from([0.0, 0.5, 0.6]),
    share=st.floats(0.0, 0.9),
)
def test_what_waited_on_disk_comes_back_as_it_was(
    tmp_path, shape, patch, overlap, share
):
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    tiles = OverlappingTiles(patch, overlap, 1)
    # Two bricks of one row each, and a part of what all would take.
    least = 2 * 4 * 3 * patch[1] * patch[2]
    room = least + share * 4 * 3 * image.numel()
    budget = MemoryBudget(int(room / predict.USED_SHARE) + 1, tmp_path)
    together = streamed(image, tiles, memory=MemoryBudget(10**9))
    assert torch.equal(streamed(image, tiles, memory=budget), together)
    torch.testing.assert_close(together[0], image[0], rtol=1e-2, atol=1e-2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("held_rows", [1, 2, 5])
def test_no_more_bricks_are_in_memory_than_the_budget_says(
    tmp_path, monkeypatch, held_rows
):
    largest = []
    make_room = Bricks._make_room

    def watched(self, needed):
        make_room(self, needed)
        held = sum(brick.nbytes for brick in self._held.values())
        largest.append(held + needed)

    monkeypatch.setattr(Bricks, "_make_room", watched)
    image = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    tiles = OverlappingTiles((4, 4, 4), 0.5, 1)
    brick = 4 * 3 * 2 * 2
    room = (held_rows + 1) * brick
    budget = MemoryBudget(int(room / predict.USED_SHARE) + 1, tmp_path)
    streamed(image, tiles, memory=budget)
    assert max(largest) == held_rows * brick


def test_tiles_that_adjoin_wait_on_disk_like_others(tmp_path):
    image = torch.randn(1, 7, 9, 5, generator=torch.Generator().manual_seed(0))
    tiles = AdjoiningTiles(((0, 0),) * 3, (1, 1, 1), 1, (3, 4, 2))
    budget = MemoryBudget(int(2 * 4 * 3 * 4 * 2 / predict.USED_SHARE) + 1, tmp_path)
    assert torch.equal(
        streamed(image, tiles, memory=budget),
        streamed(image, tiles, memory=MemoryBudget(10**9)),
    )


def test_a_budget_that_is_too_small_is_refused_and_the_least_named(tmp_path):
    image = torch.zeros(1, 8, 8, 8)
    tiles = OverlappingTiles((4, 4, 4), 0.5, 1)
    with pytest.raises(CaseError, match=r"1M is too little .* needs 8M at least"):
        streamed(
            image, tiles, memory=MemoryBudget(10**6, tmp_path), later_bytes=6 * 10**6
        )


def test_a_full_disk_is_told_before_it_is_full(tmp_path, monkeypatch):
    class Full:
        free = 10

    monkeypatch.setattr(bricks.shutil, "disk_usage", lambda _: Full)
    image = torch.zeros(1, 8, 8, 8)
    with pytest.raises(CaseError, match="too little for the logits"):
        streamed(
            image,
            OverlappingTiles((4, 4, 4), 0.5, 1),
            memory=MemoryBudget(200, tmp_path),
        )


def test_batches_shrink_where_their_logits_would_take_too_much(tmp_path):
    sizes = []

    def network(patches):
        sizes.append(len(patches))
        return patches

    image = torch.randn(1, 4, 4, 16, generator=torch.Generator().manual_seed(0))
    tiles = OverlappingTiles((4, 4, 4), 0.0, 4)
    # A tile's logits take 256 bytes, and a quarter of the budget is for a batch.
    budget = MemoryBudget(4 * 2 * 256, tmp_path)
    list(stream_logits(network, image, tiles, 1, memory=budget))
    assert sizes == [2, 2]


@pytest.mark.parametrize(
    ("words", "count"),
    [("4G", 4 * 10**9), ("500M", 500 * 10**6), ("1.5 gb", 15 * 10**8)],
)
def test_amounts_are_read_in_words(words, count):
    assert memory_bytes(words) == count


@pytest.mark.parametrize("words", ["4", "G", "-4G", "0G", "4 apples", ""])
def test_what_is_no_amount_is_refused(words):
    with pytest.raises(SettingsError, match="is no amount above 0"):
        memory_bytes(words)


def test_the_amount_named_is_enough():
    assert in_memory_words(1_000_001) == "2M"
    assert in_memory_words(1_000_000_001) == "1.1G"
    assert memory_bytes(in_memory_words(3_456_789_012)) >= 3_456_789_012


def test_the_peak_of_the_process_is_seen():
    with watched_peak() as peak:
        before = peak.bytes
        large = torch.ones(64 * 2**18)
        del large
    assert peak.bytes >= before


def test_a_volume_is_cut_at_the_borders_of_tiles():
    assert Cuts((0, 2, 5), (0, 4), (0, 1, 2)).largest_part == 3 * 4 * 1


def test_what_is_advised_for_sums_over_passes_holds_them_too(tmp_path):
    image, tiles = torch.zeros(1, 8, 8, 8), OverlappingTiles((4, 4, 4), 0.5, 1)

    def refused(memory_bytes):
        budget = MemoryBudget(memory_bytes, tmp_path, sums_bytes=2 * 10**6)
        # In a process of 10 MB, to which sums in memory come.
        later = 10**7 + (2 * 10**6 if budget.has_sums_in_memory else 0)
        try:
            streamed(image, tiles, memory=budget, later_bytes=later)
        except CaseError as error:
            return str(error)
        return ""

    words = refused(6 * 10**6)
    advised = re.search(r"needs (\S+) at least", words)[1]
    assert refused(memory_bytes(advised)) == ""


def test_a_batch_that_is_too_large_is_no_reason_to_refuse(monkeypatch):
    sizes = []
    image = torch.randn(1, 4, 4, 16, generator=torch.Generator().manual_seed(0))

    def network(patches):
        sizes.append(len(patches))
        return patches

    class Peak:
        bytes = 0

    @contextmanager
    def watched():
        yield Peak
        Peak.bytes = 10**9 if sizes[-1] > 1 else 0

    monkeypatch.setattr(predict, "watched_peak", watched)
    tiles = OverlappingTiles((4, 4, 4), 0.0, 4)
    rows = list(stream_logits(network, image, tiles, 1, memory=MemoryBudget(10**6)))
    torch.testing.assert_close(torch.cat(rows, dim=1), image)
    assert sizes == [4, 1, 1, 1, 1]
