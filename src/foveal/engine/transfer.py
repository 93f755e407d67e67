"""Weights learned elsewhere, brought into a fresh network as far as they fit.

Every layer is found by its name, or by its name in torchvision's classification
networks. Three shapes may differ: a fully connected layer may have become a
convolution, the first layers may see other channels, and the classifier may make other
classes. A difference anywhere else means that the networks are not the same, and is
refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from foveal.errors import RunError, listed
from foveal.networks.crf_rnn import CrfRnn
from foveal.networks.interface import Network
from foveal.networks.slices import SliceBySlice

SLICES_PREFIX = "network."
"""That `SliceBySlice` puts before every name."""

COUNTER = "num_batches_tracked"
"""Of batch norm; old files lack it, and nothing depends on it."""


@dataclass(frozen=True, eq=False)
class Source:
    """Weights learned elsewhere."""

    weights: Mapping[str, Tensor]

    published_names: Mapping[str, str]
    """Names in ``weights`` to names in torchvision's classification network; may be
    empty."""

    in_channels: int | None = None
    """Of the images they were learned from; ``None``: not known."""

    @property
    def by_published_name(self) -> dict[str, Tensor]:
        """Weights that torchvision's network has too, by its names."""
        return {
            there: self.weights[name]
            for name, there in self.published_names.items()
            if name in self.weights
        }


@dataclass(frozen=True)
class LeftOut:
    """A weight that keeps what was drawn, although there is one of its name."""

    name: str
    here: tuple[int, ...]
    there: tuple[int, ...]


@dataclass(frozen=True)
class TransferReport:
    """What became of every weight; names are those of the network, or of the source."""

    loaded: tuple[str, ...]
    """Taken as they are, or viewed as a convolution's."""

    other_channels: tuple[LeftOut, ...]
    """Taken, but summed or divided to suit other input channels."""

    replaced: tuple[LeftOut, ...]
    """Of the classifier, and what is per input channel: drawn anew."""

    not_found: tuple[str, ...]
    """Without a counterpart in the source: left as they are."""

    unused: tuple[str, ...]
    """Names in the source without a counterpart here."""

    @property
    def sentences(self) -> list[str]:
        """What a user should know, layer by layer."""
        taken = _layers([*self.loaded, *(each.name for each in self.other_channels)])
        words = [f"transfer: {_counted(len(taken), 'layer')} loaded"]
        words += [
            f"transfer: {each.name} was learned from images with {each.there[1]} "
            f"channels and sees {each.here[1]} here; its weights are summed over the "
            "channels and shared out equally"
            for each in self.other_channels
        ]
        words += [
            f"transfer: {each.name} is not loaded but drawn anew: it is "
            f"{_shape(each.there)} there and {_shape(each.here)} here"
            for each in self.replaced
        ]
        missing, unused = _layers(self.not_found), _layers(self.unused)
        if missing:
            words.append(
                "transfer: begun afresh, as the file has none: "
                f"{_counted(len(missing), 'layer')}, {listed(missing)}"
            )
        if unused:
            words.append(
                "transfer: in the file, but not in this network: "
                f"{_counted(len(unused), 'layer')}, {listed(unused)}"
            )
        return words

    def as_plain_values(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Transfer:
    """Values for some of a network's weights, and what became of the others."""

    values: Mapping[str, Tensor]
    report: TransferReport

    @torch.no_grad()
    def apply(self, network: Network) -> None:
        """Write the values into a network, on whatever device it is."""
        weights = without_slices(network).state_dict()
        for name, value in self.values.items():
            weights[name].copy_(value)


def without_slices(network: Network) -> Network:
    """The network itself, if it was made to see volumes slice by slice."""
    return network.network if isinstance(network, SliceBySlice) else network


def without_slices_prefix(
    weights: Mapping[str, Tensor], network: Network
) -> dict[str, Tensor]:
    """Weights of a network under the names they have without `SliceBySlice`."""
    if not isinstance(network, SliceBySlice):
        return dict(weights)
    return {
        name.removeprefix(SLICES_PREFIX): tensor for name, tensor in weights.items()
    }


def matched(network: Network, in_channels: int, source: Source) -> Transfer:
    """Find a value for every weight of a network that the source has.

    Args:
        network: Its values do not matter; may be on the meta device.
        in_channels: That it sees.
        source: Where the values come from.

    Raises:
        RunError: Nothing fits, or a layer that should be alike is not; names layers and
            shapes.
    """
    bare = without_slices(network)
    published = source.by_published_name
    names = bare.pretrained_names()
    values: dict[str, Tensor] = {}
    loaded, other_channels, replaced, misfits, not_found = [], [], [], [], []
    used: set[int] = set()
    for name, here in bare.state_dict().items():
        there = [source.weights.get(name), published.get(names.get(name, ""))]
        if isinstance(bare, CrfRnn):
            # Learned by the network alone, before it had a CRF behind it.
            there.append(source.weights.get(name.removeprefix("network.")))
        candidates = [each for each in there if each is not None]
        if not candidates:
            not_found.append(name)
            continue
        used |= {id(each) for each in candidates}
        fitting = [each for each in candidates if _fits(here.shape, each.shape)]
        chosen = (fitting or candidates)[0]
        difference = LeftOut(name, tuple(here.shape), tuple(chosen.shape))
        if fitting:
            values[name] = chosen.reshape(here.shape)
            loaded.append(name)
        elif _is_within(name, bare.classifier_names):
            replaced.append(difference)
        elif _sees_the_image(here.shape, chosen.shape, in_channels, source.in_channels):
            values[name] = for_other_channels(chosen, in_channels)
            other_channels.append(difference)
        elif _is_per_channel(here.shape, chosen.shape, in_channels, source.in_channels):
            replaced.append(difference)
        else:
            misfits.append(difference)
    report = TransferReport(
        loaded=tuple(loaded),
        other_channels=tuple(other_channels),
        replaced=tuple(replaced),
        not_found=tuple(name for name in not_found if not name.endswith(COUNTER)),
        unused=tuple(
            name for name, value in source.weights.items() if id(value) not in used
        ),
    )
    if misfits:
        raise RunError(_misfits_in_words(misfits, len(loaded)))
    if not [name for name in values if not name.endswith(COUNTER)]:
        raise RunError(_nothing_in_words(bare, source))
    return Transfer(values, report)


def for_other_channels(weight: Tensor, in_channels: int) -> Tensor:
    """A first convolution for another number of channels.

    An image that is the same in all channels gives what it gave before: a grey image
    sees RGB weights as if it were written into all three.
    """
    whole = weight.sum(dim=1, keepdim=True) / in_channels
    return whole.repeat(1, in_channels, *[1] * (weight.ndim - 2))


def _fits(here: Sequence[int], there: Sequence[int]) -> bool:
    """Equal, or a matrix whose numbers are a convolution's in the same order."""
    as_matrix = len(there) == 2 and len(here) > 2 and here[0] == there[0]
    return tuple(here) == tuple(there) or (
        as_matrix and torch.Size(here).numel() == torch.Size(there).numel()
    )


def _sees_the_image(
    here: Sequence[int],
    there: Sequence[int],
    in_channels: int,
    in_channels_there: int | None,
) -> bool:
    """Whether only the number of input channels differs, and is that of the images."""
    return (
        len(here) == len(there) > 2
        and here[0] == there[0]
        and tuple(here[2:]) == tuple(there[2:])
        and here[1] == in_channels
        and in_channels_there in {None, there[1]}
    )


def _is_per_channel(
    here: Sequence[int],
    there: Sequence[int],
    in_channels: int,
    in_channels_there: int | None,
) -> bool:
    """Whether there is one number per input channel."""
    return tuple(here) == (in_channels,) and tuple(there) == (in_channels_there,)


def _is_within(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _misfits_in_words(misfits: Sequence[LeftOut], num_loaded: int) -> str:
    shown = listed(
        [
            f"{each.name} is {_shape(each.there)} there and {_shape(each.here)} here"
            for each in misfits
        ]
    )
    return (
        f"they are of another network: {len(misfits)} weights differ in shape and "
        f"{num_loaded} agree; {shown}"
    )


def _nothing_in_words(network: Network, source: Source) -> str:
    theirs, ours = _layers(source.weights), _layers(network.state_dict())
    words = (
        f"they are of another network: none of its layers ({listed(theirs)}) is in "
        f"this one ({listed(ours)})"
    )
    names = _layers(network.pretrained_names().values())
    if names:
        return f"{words}; of torchvision's names it takes {listed(names)}"
    return words


def _layers(names: Iterable[str]) -> list[str]:
    """Modules that parameters and buffers belong to, in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"
