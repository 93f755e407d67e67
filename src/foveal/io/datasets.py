"""Data sets in any of the known layouts, read into one form.

Layouts: Medical Segmentation Decathlon and nnU-Net v2 folders, two folders of images
and labels, and CSV or TOML tables; `docs/datasets.md` shows each.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from foveal.case import CaseFiles, ChannelFile, Dataset
from foveal.errors import CaseError, DatasetError
from foveal.io.cases import integer_label_map, present_labels
from foveal.io.decathlon import list_decathlon
from foveal.io.description import FILE_NAME, read_description
from foveal.io.folders import list_folders
from foveal.io.listing import BACKGROUND_VALUE, ListedCase, Listing
from foveal.io.nnunet import list_nnunet
from foveal.io.tables import list_csv, list_toml
from foveal.io.volumes import read_grid, read_volume

LARGEST_THREADS = 4
"""Label maps read at once where no labels are named; each is in memory whole."""


def read_dataset(path: Path | str) -> Dataset:
    """Read which cases, channels and labels a data set has.

    Volumes are opened only where the layout leaves something open: one header to count
    the channels, and all label maps where no labels are named.

    Args:
        path: Of the data set's folder, its ``dataset.json``, or its CSV or TOML table.

    Raises:
        DatasetError: The layout is not known or contradicts itself.
    """
    path = Path(path)
    root = path if path.is_dir() else path.parent
    listing = _listing(path)
    if not listing.cases:
        raise DatasetError(f"{path} lists no cases; a data set needs at least one")
    _refuse_repeated_names(path, listing.cases)
    channel_names, channels_in_file = _channels(path, listing)
    label_values = listing.label_values
    if label_values is None:
        label_values = _found_labels(listing)
    cases = [
        CaseFiles(
            name=case.name,
            patient=case.patient or case.name,
            channels=_channel_files(case, channels_in_file),
            label_map=case.label_map,
            mask=case.mask,
            annotated=_annotated_structures(
                case, {name: (value,) for name, value in label_values.items()}
            ),
            split=case.split,
        )
        for case in sorted(listing.cases, key=lambda case: case.name)
    ]
    return Dataset(
        name=listing.name,
        root=root,
        cases=tuple(cases),
        channel_names=channel_names,
        label_values=label_values,
        ignore_value=listing.ignore_value,
    )


def _listing(path: Path) -> Listing:
    if path.is_dir() and not (path / FILE_NAME).is_file():
        return list_folders(path)
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist; give the folder or the table of a data set"
        )
    if path.suffix.lower() == ".csv":
        return list_csv(path)
    if path.suffix.lower() == ".toml":
        return list_toml(path)
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


def _refuse_repeated_names(path: Path, cases: Iterable[ListedCase]) -> None:
    # Outputs are files named after cases, and some disks do not tell A from a.
    counts = Counter(case.name.lower() for case in cases)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise DatasetError(
            f'{path}: the case name "{repeated[0]}" stands '
            f"{counts[repeated[0]]} times; every case needs a name of its own"
        )


def _channels(path: Path, listing: Listing) -> tuple[tuple[str, ...], int]:
    """Channel names, and how many channels one image file holds."""
    names = listing.channel_names
    files = len(listing.cases[0].images)
    if files > 1:
        channels_in_file = 1
    elif names is not None:
        channels_in_file = len(names)
    else:
        channels_in_file = _channels_in_first_image(listing.cases)
    if names is None:
        names = tuple(str(number) for number in range(files * channels_in_file))
    if len(set(names)) != len(names):
        raise DatasetError(
            f"{path}: a channel name stands twice in {list(names)}; "
            "every channel needs a name of its own"
        )
    return names, channels_in_file


def _channels_in_first_image(cases: Iterable[ListedCase]) -> int:
    """Channels of the first image that can be read; 1 if none can.

    Images that cannot be read are refused, with their reason, when their case is read.
    """
    for case in cases:
        try:
            return read_grid(case.images[0])[1]
        except CaseError:
            continue
    return 1


def _channel_files(case: ListedCase, channels_in_file: int) -> tuple[ChannelFile, ...]:
    if len(case.images) == 1 and channels_in_file > 1:
        return tuple(
            ChannelFile(case.images[0], index) for index in range(channels_in_file)
        )
    return tuple(ChannelFile(image) for image in case.images)


def _found_labels(listing: Listing) -> dict[str, int]:
    """Every value of the label maps but background and ignore, named by its number."""
    label_maps = [
        case.label_map for case in listing.cases if case.label_map is not None
    ]
    with ThreadPoolExecutor(max_workers=LARGEST_THREADS) as threads:
        found = set().union(*threads.map(_values_in, label_maps))
    structures = sorted(found - {BACKGROUND_VALUE, listing.ignore_value})
    return {str(value): value for value in structures}


def _values_in(label_map: Path) -> tuple[int, ...]:
    """Values of a label map; none if it is damaged.

    A damaged one is refused, with its reason, when its case is read or checked.
    """
    try:
        return present_labels(integer_label_map(read_volume(label_map).array))
    except CaseError:
        return ()


def _annotated_structures(
    case: ListedCase, structures: Mapping[str, Sequence[int]]
) -> tuple[str, ...] | None:
    """Names of the structures that were contoured in a case, in order of name."""
    if case.annotated is None:
        return None
    by_text = {
        str(values[0]): name for name, values in structures.items() if len(values) == 1
    } | {name: name for name in structures}
    unknown = [label for label in case.annotated if str(label) not in by_text]
    if unknown:
        raise DatasetError(
            f"case {case.name}: annotated_labels names {unknown[0]!r}; "
            f"the labels are {list(structures)}"
        )
    return tuple(sorted({by_text[str(label)] for label in case.annotated}))
