"""Which files of several sources are one case: matched by name, never by order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveal.commands.source_names import distinct_names
from foveal.errors import DatasetError, listed
from foveal.io.segmentations import segmentations_in
from foveal.io.volumes import case_stem, only_volumes


@dataclass(frozen=True)
class FusedCase:
    """One case and what each source holds of it."""

    name: str

    files: Mapping[str, Path]
    """Source to its label map; empty if the sources hold masks."""

    masks: Mapping[str, Mapping[str, Path]]
    """Structure to source to mask; empty if the sources hold label maps."""

    missing: Mapping[str, tuple[str, ...]]
    """Structure, or ``""`` for the whole case, to the sources that have none of it."""


@dataclass(frozen=True)
class Sources:
    """What is fused, and under which names."""

    paths: Mapping[str, Path]
    """Name of each source, in the order given, to where it is."""

    cases: tuple[FusedCase, ...]
    """By name."""


def find_sources(given: Sequence[Path], *, allow_missing: bool) -> Sources:
    """Match the cases of several sources by name.

    Args:
        given: Two or more. Folders of label maps, folders of a folder of masks for each
            case, or label maps of one case, whatever their names.
        allow_missing: Whether a case, or a mask, may be absent from some sources.

    Raises:
        DatasetError: There are too few sources, one is absent or given twice, they are
            of different forms, or a case or mask is missing.
    """
    _require_different(given)
    paths = dict(zip(distinct_names(given), given, strict=True))
    if all(path.is_file() for path in given):
        return Sources(paths, (FusedCase(case_stem(given[0]), paths, {}, {}),))
    found = {name: segmentations_in(path) for name, path in paths.items()}
    as_masks = {
        name: next(iter(cases.values())).is_dir() for name, cases in found.items()
    }
    if len(set(as_masks.values())) > 1:
        forms = ", ".join(
            f"{name}: {'masks' if is_masks else 'label maps'}"
            for name, is_masks in as_masks.items()
        )
        raise DatasetError(
            f"the sources have different forms ({forms}); give label maps only, or "
            "folders with a mask per structure only"
        )
    names = sorted({case for cases in found.values() for case in cases})
    cases = tuple(_case(name, found) for name in names)
    if not allow_missing:
        _require_complete(cases, paths)
    return Sources(paths, cases)


def _require_different(given: Sequence[Path]) -> None:
    if len(given) < 2:
        raise DatasetError(
            f"{len(given)} source is given; fusing takes two or more, each a label map "
            "or a folder"
        )
    seen: dict[Path, Path] = {}
    for path in given:
        if not path.exists():
            raise DatasetError(f"{path} does not exist; correct the path")
        if path.resolve() in seen:
            raise DatasetError(
                f"{path} is given twice, so that its votes would count double; give it "
                "once, or a weight with --weights"
            )
        seen[path.resolve()] = path


def _case(name: str, found: Mapping[str, Mapping[str, Path]]) -> FusedCase:
    files = {source: cases[name] for source, cases in found.items() if name in cases}
    absent = tuple(source for source in found if source not in files)
    missing = {"": absent} if absent else {}
    if not next(iter(files.values())).is_dir():
        return FusedCase(name, files, {}, missing)
    masks: dict[str, dict[str, Path]] = {}
    for source, folder in files.items():
        for file in only_volumes(sorted(folder.iterdir())):
            masks.setdefault(case_stem(file), {})[source] = file
    for structure, own in masks.items():
        without = tuple(source for source in files if source not in own)
        if without:
            missing[structure] = without
    return FusedCase(name, {}, dict(sorted(masks.items())), missing)


def _require_complete(cases: Sequence[FusedCase], paths: Mapping[str, Path]) -> None:
    """Refuse cases, or masks of a case, that a source lacks."""
    for source, path in paths.items():
        lacking = [case.name for case in cases if source in case.missing.get("", ())]
        if lacking:
            raise DatasetError(
                f"{path} has nothing for {listed(lacking)}; cases are matched by name, "
                "so give the files of one case the same name, or add --allow-missing "
                "to fuse every case from the sources that have it"
            )
    lacking_masks = [
        f"{case.name}/{structure} (not in {', '.join(sources)})"
        for case in cases
        for structure, sources in case.missing.items()
    ]
    if lacking_masks:
        raise DatasetError(
            f"there is no mask for {listed(lacking_masks)}; add it, empty if nothing "
            "was found, give masks of one structure the same name, or add "
            "--allow-missing to fuse every mask from the sources that have it"
        )
