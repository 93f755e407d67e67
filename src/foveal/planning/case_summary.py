"""What is kept of one case to compare it with others, and what was found in it.

Of the voxels nothing is kept but a few numbers, so memory does not grow with the data
set.
"""

from dataclasses import dataclass, field

from foveal.case import CaseFiles
from foveal.errors import CaseError
from foveal.geometry import Grid
from foveal.planning.findings import Finding, Severity


@dataclass(frozen=True)
class ChannelSummary:
    """One channel of a case in numbers."""

    digest: bytes
    """Of shape and voxels; the same however they were stored."""

    percentiles: tuple[float, float, float]
    """`USUAL_PERCENTILES` of the voxels that do not have the commonest value, so that
    much or little air around the body does not matter."""

    lowest: float

    is_hu_like: bool
    """Whole numbers that reach below `AIR_HU`."""

    varied_share: float
    """Of the voxels, those that do not have the commonest value (air, mostly)."""

    nonzero_box: tuple[slice, slice, slice]
    """Around the voxels that are not 0."""


@dataclass(frozen=True)
class StructureSummary:
    """One structure of a case in numbers."""

    voxels: int

    offset: float
    """Signed distance of the centroid from the body's midplane in body widths; negative
    to the patient's left."""

    right_mm: float
    """Place of the centroid from left to right, in mm from the first sagittal slice."""


@dataclass
class CaseSummary:
    """What the checks of one case find and keep, in the order in which they run."""

    case: CaseFiles

    grid: Grid | None = None
    """Of the first channel that can be read."""

    channels: dict[int, ChannelSummary] = field(default_factory=dict)
    """By number; one that is damaged, constant or not finite is left out."""

    present: frozenset[str] = frozenset()
    """Structures of which the reference has a voxel."""

    structures: dict[str, StructureSummary] = field(default_factory=dict)
    """By name, those that are present; nothing if the label map is on another grid than
    the image."""

    overlaps: dict[frozenset[str], int] = field(default_factory=dict)
    """Structures with masks of their own that lie over one another, to the number of
    voxels where just these do."""

    body: tuple[int, int] | None = None
    """First and last index of the body from left to right, see `body_extent`."""

    mask_shape: tuple[int, int, int] | None = None
    """Of the box around the mask, in stored order."""

    findings: list[Finding] = field(default_factory=list)

    def error(self, kind: str, what: str, why: str, remedy: str) -> None:
        """Note what makes training fail, unless the case is only for testing."""
        severity: Severity = "warning" if self.case.split == "test" else "error"
        self._add(kind, severity, what, why, remedy)

    def refused(self, kind: str, error: CaseError) -> None:
        """Note that the case cannot be read; the message is "what; remedy"."""
        what, _, remedy = str(error).partition("; ")
        self.error(kind, what, "the case cannot be used", remedy)

    def warning(
        self,
        kind: str,
        what: str,
        why: str,
        remedy: str,
        *,
        structure: str | None = None,
    ) -> None:
        """Note what is odd."""
        self._add(kind, "warning", what, why, remedy, structure)

    def note(self, kind: str, what: str, why: str, remedy: str) -> None:
        """Note what is good to know."""
        self._add(kind, "note", what, why, remedy)

    def has(self, kind: str) -> bool:
        """Whether something of a kind was found."""
        return any(finding.kind == kind for finding in self.findings)

    @property
    def kept_shape(self) -> tuple[int, int, int] | None:
        """Of the box around the mask, else around what is not 0; in stored order."""
        if self.grid is None or self.mask_shape is not None:
            return self.mask_shape
        boxes = [channel.nonzero_box for channel in self.channels.values()]
        if not boxes:
            return self.grid.shape
        i, j, k = (
            max(axis.stop for axis in axes) - min(axis.start for axis in axes)
            for axes in zip(*boxes, strict=True)
        )
        return i, j, k

    def _add(
        self,
        kind: str,
        severity: Severity,
        what: str,
        why: str,
        remedy: str,
        structure: str | None = None,
    ) -> None:
        self.findings.append(
            Finding(kind, severity, what, why, remedy, (self.case.name,), structure)
        )
