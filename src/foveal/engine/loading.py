"""Batches ahead of time: drawing, reading and augmenting while the network works.

Every draw is a function of (seed, step, rank, stream), so a batch is the same whenever
and on whichever thread it is made, and a resumed run sees what an unbroken one would.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveal.augmentation.intensity import IntensityAugmentation
from foveal.augmentation.spatial import (
    PatchTransform,
    SpatialAugmentation,
    renamed_channels,
    renamed_flags,
    renamed_labels,
)
from foveal.case import IGNORED, seen_classes
from foveal.engine.made_labels import MadeLabels
from foveal.sampling.batch import Batch, shown_structures
from foveal.sampling.curriculum import Curriculum
from foveal.sampling.randomness import generator
from foveal.sampling.samplers import Draw
from foveal.store.store import StoredCase

AHEAD = 4
"""Steps prepared before they are needed."""


class Sampler(Protocol):
    """Chooses a case and where in it the voxels to predict lie."""

    def draw(
        self,
        cases: Sequence[StoredCase],
        patch_size: Sequence[int],
        generator: torch.Generator,
    ) -> Draw:
        """Corner of a window of ``patch_size``, all of which is predicted."""
        ...


@dataclass(frozen=True, eq=False)
class PatchSource:
    """Makes the batches of one stream."""

    name: str
    cases: Sequence[StoredCase]
    sampler: Sampler
    patch_size: tuple[int, int, int]
    """What the network takes in, in voxels."""

    margins: Sequence[tuple[int, int]]
    """Of the network, per axis: the context in a patch that it does not predict. It may
    lie beyond the volume; what is predicted may not, so borders are seen as often."""

    spacing_mm: tuple[float, float, float]
    batch_size: int
    structures: Tensor
    """Whether each structure includes each inside class, `(structure, class)`."""

    spatial: SpatialAugmentation
    intensity: IntensityAugmentation
    seed: int
    rank: int

    tells_presence: bool = False
    """Whether batches tell which structures each patch shows."""

    reads_weight_maps: bool = False
    """Whether batches have the users' voxel weights."""

    made_labels: MadeLabels | None = None
    """Labels that a predictor gave to the cases, in place of an expert's; ``None``:
    those in the store."""

    one_case_per_batch: bool = False
    """Whether the patches of a batch come from one case, each equally likely."""

    balances_domains: bool = False
    """Whether a patch comes from each domain equally likely."""

    curriculum: Curriculum | None = None
    """Which cases a step draws from; ``None``: all."""

    @property
    def predicted_size(self) -> tuple[int, int, int]:
        """Voxels of a patch that the network predicts."""
        i, j, k = (
            size - before - after
            for size, (before, after) in zip(self.patch_size, self.margins, strict=True)
        )
        return i, j, k

    @property
    def predicted_window(self) -> tuple[slice, slice, slice]:
        """Place of these voxels in a patch."""
        i, j, k = (
            slice(before, size - after)
            for size, (before, after) in zip(self.patch_size, self.margins, strict=True)
        )
        return i, j, k

    def draw(self, cases: Sequence[StoredCase], draws: torch.Generator) -> Draw:
        """Draw a patch around voxels to predict that the sampler chooses."""
        drawn = self.sampler.draw(cases, self.predicted_size, draws)
        i, j, k = (
            start - before
            for start, (before, _) in zip(drawn.corner, self.margins, strict=True)
        )
        return drawn._replace(corner=(i, j, k))

    def read(self, step: int) -> list["ReadPatch"]:
        """Draw the patches of a step and read what they need from the store."""
        draws = generator(self.seed, step, self.rank, self.name, "patches")
        cases = self._cases_of(step, draws)
        patches = []
        for _ in range(self.batch_size):
            among = self._of_one_domain(cases, draws)
            draw = self.draw(among, draws)
            transform = self.spatial.draw(self.patch_size, draws, self.spacing_mm)
            case = among[draw.case_index]
            window = transform.source_window(draw.corner, self.patch_size)
            patches.append(
                ReadPatch(
                    case,
                    draw,
                    transform,
                    *self._read_box(case, window),
                    read_weights(case, window) if self.reads_weight_maps else None,
                )
            )
        return patches

    def _read_box(
        self, case: StoredCase, window: Sequence[slice]
    ) -> tuple[tuple[Tensor, Tensor | None], Tensor | None]:
        """Image and label map of a window, and its soft labels."""
        box = read_beyond_borders(case, window)
        if self.made_labels is None:
            return box, None
        made = read_made_labels(self.made_labels, case, window)
        if self.made_labels.are_soft:
            return box, made.float() / 255
        return (box[0], made), None

    def _cases_of(self, step: int, draws: torch.Generator) -> Sequence[StoredCase]:
        """Those that the patches of a step may come from."""
        cases = self.cases
        if self.curriculum is not None:
            cases = [cases[index] for index in self.curriculum.eligible(cases, step)]
        if self.one_case_per_batch:
            cases = self._of_one_domain(cases, draws)
            cases = [cases[int(torch.randint(len(cases), (), generator=draws))]]
        return cases

    def _of_one_domain(
        self, cases: Sequence[StoredCase], draws: torch.Generator
    ) -> Sequence[StoredCase]:
        """Cases of a domain that is drawn first; all if domains are not balanced."""
        if not self.balances_domains:
            return cases
        # In the order of the cases, as cases without a domain are one too.
        domains = list(dict.fromkeys(case.domain for case in cases))
        drawn = domains[int(torch.randint(len(domains), (), generator=draws))]
        return [case for case in cases if case.domain == drawn]

    def batch(
        self, step: int, patches: Sequence["ReadPatch"], device: torch.device
    ) -> Batch:
        """Augment the patches of a step on a device."""
        images, label_maps, annotations, presence = [], [], [], []
        weight_maps, soft_labels = [], []
        for patch in patches:
            image, label_map = patch.box
            # As channels more they go wherever the image does.
            if patch.weights is not None:
                image = torch.cat((image, patch.weights[None]))
            if patch.soft_labels is not None:
                image = torch.cat((image, patch.soft_labels))
            annotated = self._annotated(patch.case)
            image, label_map, annotated = patch.transform.apply(
                image.to(device, non_blocking=True),
                None if label_map is None else label_map.to(device, non_blocking=True),
                annotated,
            )
            has_swapped = patch.transform.new_classes is not None
            if label_map is not None and has_swapped and not bool(annotated.all()):
                # With left and right in other places, another class is the first of
                # those that look alike.
                shown = seen_classes(annotated.numpy(), self.structures.numpy())
                label_map = renamed_labels(label_map, shown)
            if patch.soft_labels is not None:
                num_classes = len(patch.soft_labels)
                image, soft = image[:-num_classes], image[-num_classes:]
                if patch.transform.new_classes is not None:
                    soft = renamed_channels(soft, patch.transform.new_classes)
                soft_labels.append(soft)
            if patch.weights is not None:
                image, weights = image[:-1], image[-1]
                weight_maps.append(weights)
            elif self.reads_weight_maps:
                weight_maps.append(torch.ones(self.patch_size, device=device))
            images.append(image)
            annotations.append(annotated)
            if label_map is not None:
                label_maps.append(label_map)
            if self.tells_presence:
                presence.append(self._presence(patch, label_map, annotated, device))
        draws = generator(self.seed, step, self.rank, self.name, "intensity")
        is_outlined = len(label_maps) == len(images)
        told = [one for one in presence if one is not None]
        is_told = self.tells_presence and len(told) == len(images)
        is_known = is_outlined or is_told
        return Batch(
            image=self.intensity.apply(torch.stack(images), draws),
            label_map=torch.stack(label_maps) if is_outlined else None,
            annotated=torch.stack(annotations).to(device) if is_known else None,
            structures=self.structures.to(device) if is_known else None,
            case_names=tuple(patch.case.name for patch in patches),
            corners=tuple(patch.corner for patch in patches),
            draws=tuple(patch.draw for patch in patches),
            present=torch.stack([one[0] for one in told]) if is_told else None,
            presence_known=torch.stack([one[1] for one in told]) if is_told else None,
            voxel_weights=torch.stack(weight_maps) if self.reads_weight_maps else None,
            soft_labels=torch.stack(soft_labels) if soft_labels else None,
        )

    def _annotated(self, case: StoredCase) -> Tensor:
        """Which structures are labelled in a case: a predictor knows them all."""
        if self.made_labels is not None:
            return torch.ones(len(self.structures), dtype=torch.bool)
        return annotated_structures(case, len(self.structures))

    def _presence(
        self,
        patch: "ReadPatch",
        label_map: Tensor | None,
        annotated: Tensor,
        device: torch.device,
    ) -> tuple[Tensor, Tensor] | None:
        """Structures among what is predicted, and of which of them that is known.

        Of a case that nobody outlined, those of its image; ``None`` if they are not
        known.
        """
        annotated = annotated.to(device)
        if label_map is not None:
            predicted = label_map[self.predicted_window]
            shown = shown_structures(predicted, self.structures.to(device))
            # Beyond the volume, where labels are ignored too, nothing is hidden.
            is_hiding = (predicted == IGNORED).any() & patch.has_ignored_voxels
            return shown, annotated & (shown | ~is_hiding)
        if patch.case.present is None:
            return None
        present = torch.tensor(patch.case.present)
        if patch.transform.new_structures is not None:
            present = renamed_flags(present, patch.transform.new_structures)
        return present.to(device), annotated


@dataclass(frozen=True, eq=False)
class ReadPatch:
    """What was read for one patch, before augmentation."""

    case: StoredCase
    draw: Draw
    """Its corner is that of what the network takes in."""

    transform: PatchTransform
    box: tuple[Tensor, Tensor | None]
    """Image and label map of the transform's source window."""

    soft_labels: Tensor | None = None
    """Probabilities there, `(class, i, j, k)`; ``None``: the label map says all."""

    weights: Tensor | None = None
    """The user's weights there; ``None``: not wanted, or the case has none."""

    @property
    def corner(self) -> tuple[int, int, int]:
        """First voxel of what the network takes in."""
        return self.draw.corner

    @property
    def has_ignored_voxels(self) -> bool:
        """Whether voxels of the window that lie in the volume are ignored."""
        label_map = self.box[1]
        if label_map is None:
            return False
        window = self.transform.source_window(self.corner, self.transform.patch_size)
        _, inside = _within(window, self.case.shape)
        return bool((label_map[inside] == IGNORED).any())


def read_beyond_borders(
    case: StoredCase, window: Sequence[slice]
) -> tuple[Tensor, Tensor | None]:
    """Read a window that may reach beyond the volume: image 0, labels ignored there.

    A channel that the case lacks is the same there as everywhere.
    """
    inside, target = _within(window, case.shape)
    shape = tuple(axis.stop - axis.start for axis in window)
    is_within = all(part == axis for part, axis in zip(inside, window, strict=True))
    is_empty = any(part.stop <= part.start for part in inside)
    label_map: NDArray[np.uint8] | None = None
    if is_within:
        image = case.read_image(inside)
        if case.class_counts:
            label_map = case.read_label_map(inside)
    else:
        image = np.zeros((case.num_channels, *shape), np.float32)
        for number, value in case.missing_channels.items():
            image[number] = value
        if not is_empty:
            image[:, *target] = case.read_image(inside)
        if case.class_counts:
            label_map = np.full(shape, IGNORED, np.uint8)
            if not is_empty:
                label_map[target] = case.read_label_map(inside)
    return (
        torch.from_numpy(image),
        None if label_map is None else torch.from_numpy(label_map),
    )


def read_weights(case: StoredCase, window: Sequence[slice]) -> Tensor | None:
    """Read the weights of a window that may reach beyond the volume: 0 there."""
    if case.weight_map is None:
        return None
    inside, target = _within(window, case.shape)
    weights = np.zeros([axis.stop - axis.start for axis in window], np.float32)
    if all(part.stop > part.start for part in inside):
        weights[target] = case.read_weight_map(inside)
    return torch.from_numpy(weights)


def read_made_labels(
    made: MadeLabels, case: StoredCase, window: Sequence[slice]
) -> Tensor:
    """Read labels of a window that may reach beyond the volume: nothing is known there.

    Returns:
        Bytes, `(i, j, k)`, ignored beyond; or `(class, i, j, k)`, 0 beyond.
    """
    inside, target = _within(window, case.shape)
    channels = (slice(0, made.num_classes),) if made.are_soft else ()
    shape = [axis.stop - axis.start for axis in (*channels, *window)]
    labels = np.full(shape, 0 if made.are_soft else IGNORED, np.uint8)
    if all(part.stop > part.start for part in inside):
        labels[*channels, *target] = made.read(case.name, inside)
    return torch.from_numpy(labels)


def _within(
    window: Sequence[slice], shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """What a window shares with a volume: where in the volume, where in the window."""
    inside = tuple(
        slice(max(axis.start, 0), max(min(axis.stop, length), max(axis.start, 0)))
        for axis, length in zip(window, shape, strict=True)
    )
    return inside, tuple(
        slice(part.start - axis.start, part.stop - axis.start)
        for part, axis in zip(inside, window, strict=True)
    )


def annotated_structures(case: StoredCase, num_structures: int) -> Tensor:
    """Which structures were contoured in a case, as booleans."""
    if case.annotated is None:
        return torch.ones(num_structures, dtype=torch.bool)
    return torch.tensor(case.annotated, dtype=torch.bool)


class Prefetcher:
    """Keeps the batches of the next steps ready; use as a context manager.

    On the CPU, threads also augment; for other devices they read, and the batch is
    augmented on the device when it is taken.
    """

    def __init__(
        self, sources: Mapping[str, PatchSource], device: torch.device, threads: int
    ) -> None:
        self._sources = sources
        self._device = device
        self._workers = single_threaded_pool(threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._workers.shutdown(wait=True, cancel_futures=True)

    def batches(self, first_step: int, end: int) -> Iterator[dict[str, Batch]]:
        """Batches of every stream for steps ``first_step`` to ``end`` - 1, in order."""
        waiting: list[Future[dict[str, Any]]] = []
        next_step = first_step
        try:
            for step in range(first_step, end):
                while next_step < min(step + AHEAD, end):
                    waiting.append(self._workers.submit(self._prepare, next_step))
                    next_step += 1
                prepared = waiting.pop(0).result()
                if self._device.type == "cpu":
                    yield prepared
                else:
                    yield {
                        name: source.batch(step, prepared[name], self._device)
                        for name, source in self._sources.items()
                    }
        finally:
            for future in waiting:
                future.cancel()

    def _prepare(self, step: int) -> dict[str, Any]:
        """Batches on the CPU, else what was read for them."""
        read = {name: source.read(step) for name, source in self._sources.items()}
        if self._device.type != "cpu":
            return read
        return {
            name: source.batch(step, read[name], self._device)
            for name, source in self._sources.items()
        }


def single_threaded_pool(workers: int) -> ThreadPoolExecutor:
    """Threads in which PyTorch does not start threads of its own.

    PyTorch keeps the number per thread but also one for threads to come, which is put
    back for the caller.
    """
    threads = torch.get_num_threads()
    all_started = threading.Barrier(workers + 1)

    def start() -> None:
        torch.set_num_threads(1)
        all_started.wait()

    pool = ThreadPoolExecutor(workers, "loader", initializer=start)
    for _ in range(workers):
        pool.submit(int)
    all_started.wait()
    torch.set_num_threads(threads)
    return pool
