"""What a user gives to `predict`: a file, a folder of images or a data set."""

from pathlib import Path

from foveal.case import CaseFiles, ChannelFile
from foveal.errors import CaseError, DatasetError
from foveal.io.cases import case_files
from foveal.io.datasets import read_dataset
from foveal.io.folder_names import CHANNEL_SUFFIX, complete_channels, volumes_by_name
from foveal.io.volumes import is_volume


def cases_to_predict(path: Path, num_channels: int) -> tuple[CaseFiles, ...]:
    """List the cases of an input.

    A single volume is one case. A folder of volumes is one case per file, or per group
    of ``name_0000``, ``name_0001``, … where the model wants several channels. Anything
    else is read as a data set, of which every case is taken.

    Args:
        path: As the user gave it.
        num_channels: That the model was trained with.

    Raises:
        CaseError: ``path`` does not exist or holds no volume.
        DatasetError: It is a data set that cannot be understood.
    """
    if not path.exists():
        raise CaseError(f"{path} does not exist; give a volume, a folder or a table")
    if path.is_file() and is_volume(path):
        return (case_files(path),)
    is_plain_folder = path.is_dir() and any(is_volume(file) for file in path.iterdir())
    if not is_plain_folder:
        try:
            return read_dataset(path).cases
        except DatasetError as error:
            raise DatasetError(
                f"{error} (an input to predict may also be one volume, or a folder "
                "that holds volumes itself)"
            ) from error
    volumes = volumes_by_name(path)
    if num_channels == 1:
        return tuple(
            CaseFiles(_flat(name), _flat(name), (ChannelFile(file),))
            for name, file in volumes.items()
        )
    groups: dict[str, dict[int, Path]] = {}
    for name, file in volumes.items():
        match = CHANNEL_SUFFIX.fullmatch(name)
        if match:
            groups.setdefault(match["case"], {})[int(match["channel"])] = file
    if not groups:
        return tuple(_case_of_file(name, file) for name, file in volumes.items())
    return tuple(
        CaseFiles(
            _flat(name),
            _flat(name),
            tuple(
                ChannelFile(file) for file in complete_channels(channels, num_channels)
            ),
        )
        for name, channels in groups.items()
    )


def _case_of_file(name: str, file: Path) -> CaseFiles:
    """A file that should hold several channels; a damaged one fails when it is read."""
    try:
        channels = case_files(file).channels
    except CaseError:
        channels = (ChannelFile(file),)
    return CaseFiles(_flat(name), _flat(name), channels)


def _flat(name: str) -> str:
    """The name becomes a file name, which cannot hold folders."""
    return name.replace("/", "_")
