"""What an ensemble is trained from: its members, what they share, and who enters."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from foveal.config.sections import Section

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
"""Names a folder on every system."""


class EntryConfig(Section):
    """Who enters: members whose validated Dice of a region is above a threshold."""

    region: str
    """A structure of the data set, or one of ``regions``."""

    threshold_dice: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Mean over the validation cases that a member has to pass."""


class MemberConfig(Section):
    """One member, or one per variant."""

    name: FileName
    """Of its folder; with variants, theirs is added: ``unet_n4``."""

    settings: Path | None = None
    """Settings file, such as a recipe, relative to the ensemble's. Unset: what the plan
    and the defaults say."""

    set: dict[str, Any] = Field({})
    """Entries in place of those of the settings file and of the ensemble, as tables:
    ``{loss = {dice = 1.0}}``."""


class VariantConfig(Section):
    """What every member is trained with once more, such as a normalisation.

    Without variants every member is trained once.
    """

    name: FileName
    """Added to the member's name."""

    every_channel: dict[str, Any] = Field({})
    """Of ``preprocessing.channels``, alike for all channels of the data set:
    ``{normalisation = "zscore", bias_field = {}}``."""

    set: dict[str, Any] = Field({})
    """Entries in place of the member's, as tables."""

    @model_validator(mode="after")
    def channels_are_said_once(self) -> Self:
        """Refuse channels that are said twice."""
        changed = self.set.get("preprocessing")
        is_said = isinstance(changed, dict) and "channels" in changed
        if self.every_channel and is_said:
            raise ValueError(
                "every_channel and set.preprocessing.channels both say how channels "
                "are normalised; give one"
            )
        return self


class EnsembleConfig(Section):
    """Everything that decides an ensemble that is trained."""

    format_version: Literal[1] = 1
    """Of the file; 1 is the only one so far."""

    dataset: Path
    """Folder or table, relative to this file; of all members."""

    store: Path | None = None
    """Where preprocessed cases are kept; unset: a folder of the user's cache."""

    fold: NonNegativeInt = 0
    """Which part of the training patients all members are validated on."""

    entry: EntryConfig

    regions: dict[str, Annotated[tuple[PositiveInt, ...], Field(min_length=1)]] = Field(
        {}
    )
    """Name to the label values whose union is measured besides the structures:
    ``whole = [1, 2, 3, 4]``."""

    settings: dict[str, Any] = Field({})
    """Entries that all members share, as tables; they replace those of the members'
    settings files."""

    members: tuple[MemberConfig, ...] = Field(min_length=1)
    variants: tuple[VariantConfig, ...] = ()

    @model_validator(mode="after")
    def names_are_told_apart(self) -> Self:
        """Refuse two members of one name, also where case does not count."""
        problems = []
        for what, names in (
            ("members", [member.name for member in self.members]),
            ("variants", [variant.name for variant in self.variants]),
        ):
            counts = Counter(name.lower() for name in names)
            problems += [
                f"{what}: {count} are called {name}; give each a name of its own"
                for name, count in counts.items()
                if count > 1
            ]
        if problems:
            raise ValueError("; ".join(problems))
        if len(self.members) * max(len(self.variants), 1) < 2:
            raise ValueError(
                "members: an ensemble needs two or more; add a member or variants"
            )
        joined = Counter(name.lower() for name in self.full_names)
        twice = [name for name, count in joined.items() if count > 1]
        if twice:
            raise ValueError(
                f"members: with its variant, more than one would be called {twice[0]}; "
                "choose other names"
            )
        return self

    @property
    def full_names(self) -> tuple[str, ...]:
        """Of all members, every one with every variant, in their order."""
        return tuple(
            f"{member.name}_{variant.name}" if variant else member.name
            for member, variant in self.pairs
        )

    @property
    def pairs(self) -> tuple[tuple[MemberConfig, VariantConfig | None], ...]:
        """Every member with every variant, the variants of a member together."""
        return tuple(
            (member, variant)
            for member in self.members
            for variant in (self.variants or (None,))
        )
