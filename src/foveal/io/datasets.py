"""Data sets in any of the known layouts, read into one form.

Layouts: Medical Segmentation Decathlon and nnU-Net v2 folders, two folders of images
and labels, a folder per case, and CSV or TOML tables; `docs/datasets.md` shows each.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from foveal.case import (
    CaseFiles,
    ChannelFile,
    Dataset,
    ExcludedCase,
    NamedFold,
)
from foveal.errors import CaseError, DatasetError
from foveal.io.case_folders import list_case_folders
from foveal.io.decathlon import list_decathlon
from foveal.io.description import FILE_NAME, read_description
from foveal.io.file_names import require_different_names, require_file_name
from foveal.io.folders import has_image_folder, list_folders
from foveal.io.label_maps import integer_label_map, present_labels
from foveal.io.listing import BACKGROUND_VALUE, IGNORE_NAME, Labels, ListedCase, Listing
from foveal.io.nnunet import list_nnunet, read_folds
from foveal.io.pictures import COLOURS, is_picture
from foveal.io.segments import chosen_segment, read_segments
from foveal.io.tables import list_csv, list_toml
from foveal.io.volumes import (
    channels_of_pictures,
    is_slicer_segmentation,
    read_grid,
    read_volume,
)

FOLDS_FILE = "splits_final.json"
"""nnU-Net's division into folds, read where it lies beside the data set."""

IMAGES_LOOKED_AT = 5
"""To learn how many channels a file holds where the layout does not say."""

LARGEST_THREADS = 4
"""Label maps read at once where no labels are named; each is in memory whole."""


def read_dataset(path: Path | str, *, find_labels: bool = True) -> Dataset:
    """Read which cases, channels and labels a data set has.

    Volumes are opened only where the layout leaves something open: one header to count
    the channels, the headers of ``.seg.nrrd`` files, and all label maps where no labels
    are named.

    Args:
        path: Of the data set's folder, its ``dataset.json``, or its CSV or TOML table.
        find_labels: Open the label maps where no labels are named. Otherwise nothing
            is said of labels there, and nobody need have drawn anything, as for images
            that are only to be predicted.

    Raises:
        DatasetError: The layout is not known or contradicts itself.
    """
    path = Path(path)
    root = path if path.is_dir() else path.parent
    listing = _listing(path, are_labelled=find_labels)
    listed = sorted(listing.cases, key=lambda case: case.name)
    if not listed:
        raise DatasetError(f"{path} lists no cases; a data set needs at least one")
    _require_sound_names(path, listing.cases)
    excluded = tuple(
        ExcludedCase(case.name, case.exclude)
        for case in listed
        if case.exclude is not None
    )
    listed = _with_segments([case for case in listed if case.exclude is None])
    if not listed:
        raise DatasetError(
            f"{path} excludes all of its {len(excluded)} cases; keep at least one"
        )
    channel_names, channels_in_file = _channels(
        path, listing.channel_names, _telling(listed)
    )
    labels = _labels(path, listing.labels, listed, find_labels=find_labels)
    dataset = Dataset(
        name=listing.name,
        root=root,
        cases=(),
        channel_names=channel_names,
        label_values=labels.values or {},
        regions=labels.regions,
        ignore_value=labels.ignore_value,
        background_value=labels.background_value,
        excluded=excluded,
        folds=_folds(root, listed, excluded),
    )
    structures = None if labels.values is None else dataset.structures
    cases = [
        replace(
            _case_files(case, channels_in_file, structures),
            background_value=labels.background_value,
        )
        for case in listed
    ]
    return replace(dataset, cases=tuple(cases))


def _listing(path: Path, *, are_labelled: bool) -> Listing:
    if path.is_dir() and not (path / FILE_NAME).is_file():
        if has_image_folder(path):
            return list_folders(path)
        return list_case_folders(path, are_labelled=are_labelled)
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist; give the folder or the table of a data set"
        )
    if path.suffix.lower() == ".csv":
        return list_csv(path)
    if path.suffix.lower() == ".toml":
        return list_toml(path, partial(_listing, are_labelled=are_labelled))
    if path.name == FILE_NAME:
        description = read_description(path)
        if "channel_names" in description:
            return list_nnunet(path.parent, description)
        if isinstance(description.get("training"), list):
            return list_decathlon(path.parent, description)
        raise DatasetError(
            f'{path} has neither "training" (a list of cases, Decathlon layout) nor '
            '"channel_names" (nnU-Net v2 layout); see docs/datasets.md'
        )
    raise DatasetError(
        f"{path} is no data set: give a folder, or a table that ends in .csv or .toml"
    )


def _require_sound_names(path: Path, cases: Sequence[ListedCase]) -> None:
    """Refuse names of cases that cannot name their outputs."""
    for case in cases:
        require_file_name(case.name, "case")
    require_different_names(
        path,
        [(case.name, case.images[0] if case.images else None) for case in cases],
        "case",
    )


def _with_segments(cases: Sequence[ListedCase]) -> list[ListedCase]:
    """The cases, with the segments of ``.seg.nrrd`` files looked up by name."""
    with ThreadPoolExecutor(max_workers=LARGEST_THREADS) as threads:
        return list(threads.map(_case_with_segments, cases))


def _case_with_segments(case: ListedCase) -> ListedCase:
    """A file that cannot be read stays as it is, and is refused when its case is."""
    try:
        if case.label_map is not None and is_slicer_segmentation(case.label_map):
            segments = read_segments(case.label_map)
            if segments:
                return replace(case, label_map=None, structure_files=segments)
        files = [
            chosen_segment(file.path, file.structure)
            if is_slicer_segmentation(file.path)
            else file
            for file in case.structure_files
        ]
    except CaseError:
        return case
    return replace(case, structure_files=tuple(files))


def _telling(cases: Sequence[ListedCase]) -> Sequence[ListedCase]:
    """Cases that tell what channels there are: what is outlined is looked at first.

    Images that nobody outlined may have been added from elsewhere.
    """
    labelled = [case for case in cases if case.label_map or case.structure_files]
    return labelled or cases


def _channels(
    path: Path, names: tuple[str, ...] | None, cases: Sequence[ListedCase]
) -> tuple[tuple[str, ...], int]:
    """Channel names, and how many channels one image file holds."""
    files = len(cases[0].images) + len(cases[0].missing_channels)
    if files > 1:
        channels_in_file = 1
    elif names is not None:
        channels_in_file = len(names)
    else:
        channels_in_file = _channels_in_images(cases)
    if names is None:
        names = _usual_names(cases, files * channels_in_file)
    if len(set(names)) != len(names):
        raise DatasetError(
            f"{path}: a channel name stands twice in {list(names)}; "
            "every channel needs a name of its own"
        )
    return names, channels_in_file


def _usual_names(cases: Sequence[ListedCase], count: int) -> tuple[str, ...]:
    """Names of channels where the layout gives none: colours, or numbers."""
    are_pictures = all(is_picture(image) for case in cases for image in case.images)
    if are_pictures and count == len(COLOURS):
        return COLOURS
    if are_pictures and count == 1:
        return ("grey",)
    return tuple(str(number) for number in range(count))


def _channels_in_images(cases: Sequence[ListedCase]) -> int:
    """Channels that most of the first images that can be read have; 1 if none can.

    Images that cannot be read are refused, with their reason, when their case is read.
    Pictures that are stored in colour are grey if all of them are.
    """
    pictures = [case.images[0] for case in cases if is_picture(case.images[0])]
    if len(pictures) == len(cases):
        return channels_of_pictures(pictures)
    found: list[int] = []
    for case in cases:
        with contextlib.suppress(CaseError):
            found.append(read_grid(case.images[0])[1])
        if len(found) == IMAGES_LOOKED_AT:
            break
    return Counter(found).most_common(1)[0][0] if found else 1


def _case_files(
    case: ListedCase,
    channels_in_file: int,
    structures: Mapping[str, Sequence[int]] | None,
) -> CaseFiles:
    """Files of a case; ``structures`` is ``None`` where labels are not looked for."""
    return CaseFiles(
        name=case.name,
        patient=case.patient or case.name,
        channels=_channel_files(case, channels_in_file),
        missing_channels=case.missing_channels,
        label_map=case.label_map,
        structure_files=case.structure_files,
        mask=case.mask,
        weight_map=case.weight_map,
        annotated=None if structures is None else _annotated(case, structures),
        present=None
        if structures is None or case.present is None
        else _structure_names(case, case.present, "present", structures),
        split=case.split,
        domain=case.domain,
    )


def _channel_files(case: ListedCase, channels_in_file: int) -> tuple[ChannelFile, ...]:
    if len(case.images) == 1 and channels_in_file > 1:
        return tuple(
            ChannelFile(case.images[0], index) for index in range(channels_in_file)
        )
    return tuple(ChannelFile(image) for image in case.images)


def _labels(
    path: Path, labels: Labels, cases: Sequence[ListedCase], *, find_labels: bool
) -> Labels:
    """Labels as the layout names them, else as the references tell."""
    drawn = sorted({file.structure for case in cases for file in case.structure_files})
    label_maps = [case.label_map for case in cases if case.label_map is not None]
    if drawn:
        _require_sound_structures(path, labels, drawn)
        _require_drawn_if_annotated(cases)
        if labels.values is not None:
            return labels
        others = [file for file in label_maps if not _lacks_segments_by_damage(file)]
        if others:
            raise DatasetError(
                f"{path} has masks of {drawn} and also label maps, as {others[0]}, "
                "whose values nothing names; name them in dataset.json or a TOML table"
            )
        return replace(
            labels,
            values={structure: number for number, structure in enumerate(drawn, 1)},
        )
    if labels.values is not None or not find_labels:
        return labels
    values = _found_labels(label_maps, labels.ignore_value)
    if len(values) == 2 and all(map(is_picture, label_maps)):
        background, structure = sorted(values)
        if BACKGROUND_VALUE not in values:
            return replace(
                labels,
                values={str(structure): structure},
                background_value=background,
            )
    values -= {BACKGROUND_VALUE}
    return replace(labels, values={str(value): value for value in sorted(values)})


def _lacks_segments_by_damage(path: Path) -> bool:
    """Whether segments may be in a file, which cannot be read.

    It is refused, with its reason, when its case is read or checked.
    """
    if not is_slicer_segmentation(path):
        return False
    try:
        read_segments(path)
    except CaseError:
        return True
    return False


def _require_sound_structures(path: Path, labels: Labels, drawn: Sequence[str]) -> None:
    """Refuse structures with masks of their own that the layout does not know."""
    if labels.regions:
        raise DatasetError(
            f"{path} has regions, which are made of the values of label maps, and also "
            f"masks of {list(drawn)}, which may overlap by themselves; leave the "
            "regions out"
        )
    for structure in drawn:
        if structure.lower() == IGNORE_NAME:
            raise DatasetError(
                f'{path}: a mask of its own cannot be "{structure}"; voxels to ignore '
                "need a label map with a label of that name"
            )
        if labels.values is not None and structure not in labels.values:
            raise DatasetError(
                f'{path} has masks of "{structure}", which is none of its labels '
                f"{list(labels.values)}; masks are of {list(drawn)}: rename or add it"
            )
        # Predictions are files named after their structures too.
        require_file_name(structure, "structure")
    require_different_names(
        path, [(structure, None) for structure in drawn], "structure"
    )


def _require_drawn_if_annotated(cases: Iterable[ListedCase]) -> None:
    """Refuse cases that claim to be contoured without a file that says so."""
    for case in cases:
        if case.annotated and case.label_map is None and not case.structure_files:
            raise DatasetError(
                f"case {case.name}: annotated_labels but no mask at all; give it an "
                f"empty mask of {case.annotated[0]!r}, or take annotated_labels out"
            )


def _found_labels(label_maps: Iterable[Path], ignore_value: int | None) -> set[int]:
    """Every value of the label maps but ignore."""
    with ThreadPoolExecutor(max_workers=LARGEST_THREADS) as threads:
        found: set[int] = set().union(*threads.map(_values_in, label_maps))
    return {value for value in found if value != ignore_value}


def _values_in(label_map: Path) -> tuple[int, ...]:
    """Values of a label map; none if it is damaged.

    A damaged one is refused, with its reason, when its case is read or checked.
    """
    try:
        return present_labels(integer_label_map(read_volume(label_map).array))
    except CaseError:
        return ()


def _annotated(
    case: ListedCase, structures: Mapping[str, Sequence[int]]
) -> tuple[str, ...] | None:
    """Names of the structures that were contoured in a case, in order of name."""
    if case.annotated is None and not case.structure_files:
        return None
    listed = case.annotated or ()
    named = _structure_names(case, listed, "annotated_labels", structures)
    if not case.structure_files:
        return named
    drawn = {*named, *(file.structure for file in case.structure_files)}
    return None if drawn == structures.keys() else tuple(sorted(drawn))


def _structure_names(
    case: ListedCase,
    listed: Sequence[str | int],
    entry: str,
    structures: Mapping[str, Sequence[int]],
) -> tuple[str, ...]:
    """Names of structures that a case lists by name or by value, in order of name."""
    by_text = {
        str(values[0]): name for name, values in structures.items() if len(values) == 1
    } | {name: name for name in structures}
    unknown = [label for label in listed if str(label) not in by_text]
    if unknown:
        raise DatasetError(
            f"case {case.name}: {entry} names {unknown[0]!r}; "
            f"the structures are {list(structures)}"
        )
    return tuple(sorted({by_text[str(label)] for label in listed}))


def _folds(
    root: Path, cases: Sequence[ListedCase], excluded: Sequence[ExcludedCase]
) -> tuple[NamedFold, ...] | None:
    """Folds that lie beside the data set."""
    path = root / FOLDS_FILE
    if not path.is_file():
        return None
    return read_folds(
        path, {case.name for case in cases}, {case.name for case in excluded}
    )
