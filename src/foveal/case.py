"""One study to segment: the files it is made of, and what is read from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.geometry import Grid

IGNORED = 255
"""Inside label of voxels that carry no loss and no score: marked so by the user, or
outside the volume. Inside labels are one byte: 0 background, then 1, 2, … in order."""


@dataclass(frozen=True)
class ChannelFile:
    """Where one channel of a case is stored."""

    path: Path

    index: int | None = None
    """Position along the fourth axis of a 4D file; ``None`` for a 3D file."""


@dataclass(frozen=True)
class StructureFile:
    """Where one structure of a case is drawn apart from the others."""

    structure: str
    path: Path

    value: int | None = None
    """Number in the file that means the structure; ``None``: whatever is above 0.5."""

    layer: int | None = None
    """Position along the fourth axis of a 4D file; ``None`` for a 3D file."""


@dataclass(frozen=True)
class CaseFiles:
    """Files and facts of one case as its data set lists them; nothing is read yet."""

    name: str
    """Unique in the data set; names every output of the case."""

    patient: str
    """Splits are by patient, never by case."""

    channels: tuple[ChannelFile, ...]
    """In the data set's order, without the missing ones; the grid is that of the first,
    and outputs take its format."""

    label_map: Path | None = None

    structure_files: tuple[StructureFile, ...] = ()
    """In place of a label map: one mask per structure; they may overlap."""

    mask: Path | None = None
    """Body or brain mask; voxels above 0.5 are inside."""

    weight_map: Path | None = None
    """How much each voxel counts in training, see `Case.weight_map`."""

    annotated: tuple[str, ...] | None = None
    """Structures contoured in this case; ``None``: all of them."""

    present: tuple[str, ...] | None = None
    """Structures that the image shows somewhere, of a case that nobody outlined;
    ``None``: not known."""

    split: str | None = None
    """``"train"``, ``"validation"`` or ``"test"`` if the data set says so."""

    domain: str | None = None
    """Scanner, site or sequence that the case comes from, if the data set says so."""

    background_value: int = 0
    """Value of the label map that is read as 0; see `Dataset.background_value`."""

    missing_channels: tuple[int, ...] = ()
    """Numbers of the data set's channels that the case lacks, never all."""

    @property
    def num_channels(self) -> int:
        """Channels of the case's image, missing ones included."""
        return len(self.channels) + len(self.missing_channels)

    @property
    def numbered_channels(self) -> dict[int, ChannelFile]:
        """The channels that there are, by their number in the data set."""
        there = set(range(self.num_channels)).difference(self.missing_channels)
        return dict(zip(sorted(there), self.channels, strict=True))

    @property
    def is_labelled(self) -> bool:
        """Whether it has a reference segmentation."""
        return self.label_map is not None or bool(self.structure_files)


@dataclass(frozen=True)
class Domain:
    """How many cases of a data set come from one scanner, site or sequence."""

    name: str | None
    """``None``: the data set does not say which."""

    labelled_cases: int
    unlabelled_cases: int
    """For training."""


@dataclass(frozen=True)
class ExcludedCase:
    """A case that its data set tells to leave out."""

    name: str
    reason: str


@dataclass(frozen=True)
class NamedFold:
    """Cases of one fold as the data set divides them, by name."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """Cases of a data set and what its labels and channels are called."""

    name: str
    root: Path
    cases: tuple[CaseFiles, ...]
    """Labelled and unlabelled cases alike, in order of name."""

    channel_names: tuple[str, ...]

    label_values: dict[str, int]
    """Label name to value in label maps, background left out, in order of value. Where
    every structure has a file of its own, the values are numbered in order of name."""

    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Region name to the label values whose union it is. If there are any, the regions
    are what is segmented and measured; they may overlap."""

    ignore_value: int | None = None
    """Label value whose voxels carry no loss and no score."""

    background_value: int = 0
    """Value of background in label maps. Another than 0 only where all of them are
    pictures of the same two values: the lower is background."""

    excluded: tuple[ExcludedCase, ...] = ()
    """Cases that the data set leaves out, and why; they are not among ``cases``."""

    folds: tuple[NamedFold, ...] | None = None
    """Division into training and validation cases, if the data set brings one."""

    @property
    def labelled(self) -> tuple[CaseFiles, ...]:
        """Cases with a reference segmentation."""
        return tuple(case for case in self.cases if case.is_labelled)

    @property
    def unlabelled(self) -> tuple[CaseFiles, ...]:
        """Cases for training of which nothing is outlined.

        Of some of them it may be known what their image shows.
        """
        return tuple(
            case
            for case in self.cases
            if not case.is_labelled and case.split in (None, "train")
        )

    @property
    def domains(self) -> tuple[Domain, ...]:
        """Domains of the cases, in order of name; the one without a name last.

        Empty if no case has a domain.
        """
        names = {case.domain for case in self.cases}
        if names == {None}:
            return ()
        return tuple(
            Domain(
                name,
                labelled_cases=sum(case.domain == name for case in self.labelled),
                unlabelled_cases=sum(case.domain == name for case in self.unlabelled),
            )
            for name in sorted(names, key=lambda name: (name is None, name))
        )

    @property
    def image_labelled(self) -> tuple[CaseFiles, ...]:
        """Cases that are not outlined, but of which it is said what they show."""
        return tuple(
            case
            for case in self.cases
            if not case.is_labelled and case.present is not None
        )

    @property
    def left_out(self) -> str:
        """Excluded cases with their reasons, in a line; empty if there are none."""
        cases = ", ".join(f"{case.name} ({case.reason})" for case in self.excluded)
        return f"left out, as the data set says: {cases}" if cases else ""

    @property
    def structures(self) -> dict[str, tuple[int, ...]]:
        """What is segmented: name to the label values whose union it is."""
        if self.regions:
            return self.regions
        return {name: (value,) for name, value in self.label_values.items()}

    @property
    def has_structure_files(self) -> bool:
        """Whether references are one mask per structure."""
        return any(case.structure_files for case in self.cases)


@dataclass(frozen=True, eq=False)
class Volume:
    """One stored volume: its values, its grid and its file's own header."""

    array: NDArray[Any]
    """``(i, j, k)`` in stored order, in the file's own number type where possible."""

    grid: Grid

    header: Any = None
    """The format's header, kept so that an output can repeat its codes."""


@dataclass(frozen=True, eq=False)
class Case:
    """One case in memory, every channel on one grid, in stored order."""

    name: str

    image: NDArray[np.float32]
    """``(channel, i, j, k)``; 0 where a channel is missing."""

    grid: Grid

    label_map: NDArray[Any] | None = None
    """``(i, j, k)`` integers: the user's values; or, if every structure has a mask of
    its own, places in ``combinations``."""

    mask: NDArray[np.bool_] | None = None

    weight_map: NDArray[np.float32] | None = None
    """How often patches are drawn there, or how much a voxel counts in a loss, as the
    settings say; not negative, and not 0 everywhere. ``None``: all voxels alike."""

    header: Any = None
    """Header of the first channel's file, for outputs on the same grid."""

    path: Path | None = None
    """File of the first channel that there is: outputs take its format."""

    combinations: tuple[frozenset[str], ...] | None = None
    """Structures that lie over one another, by number in ``label_map``; the first is
    empty. ``None``: the reference is a label map."""

    missing_channels: tuple[int, ...] = ()
    """Numbers of channels that the case lacks, never all."""

    @property
    def first_channel(self) -> NDArray[np.float32]:
        """The first channel ``(i, j, k)`` that the case has."""
        there = (n for n in range(len(self.image)) if n not in self.missing_channels)
        return self.image[next(there)]

    def meaning(
        self, structures: Mapping[str, Sequence[int]]
    ) -> dict[int, frozenset[str]]:
        """Structures that each number of the label map stands for, 0 included.

        Args:
            structures: Name to label values, see `Dataset.structures`; not looked at
                where every structure has a mask of its own.
        """
        if self.combinations is not None:
            return dict(enumerate(self.combinations))
        return meaning_of_values(structures)


def meaning_of_values(
    structures: Mapping[str, Sequence[int]],
) -> dict[int, frozenset[str]]:
    """Structures that each label value belongs to; 0, background, to none."""
    belongs: dict[int, set[str]] = {0: set()}
    for name, values in structures.items():
        for value in values:
            belongs.setdefault(value, set()).add(name)
    return {value: frozenset(names) for value, names in belongs.items()}


def seen_classes(
    annotated: NDArray[np.bool_], structures: NDArray[np.bool_]
) -> tuple[int, ...]:
    """Class as which each inside class shows where some structures are not annotated.

    Without its structures that were not annotated, a class may look like others: a
    lesion in an organ like the organ, a structure of its own like background. All that
    look alike count as the first of them.

    Args:
        annotated: Whether each structure was annotated in a case.
        structures: Whether each structure includes each class, ``(structure, class)``;
            none includes class 0, background.
    """
    if annotated.all():
        return tuple(range(structures.shape[1]))
    visible = [column.tobytes() for column in structures[annotated].T]
    return tuple(visible.index(column) for column in visible)
