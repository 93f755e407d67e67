"""What a run was made of and how, as sentences for its report."""

from collections.abc import Sequence

from foveal.case import Dataset
from foveal.config.methods import MethodConfig
from foveal.config.networks.section import NetworkConfig
from foveal.config.networks.unet import UNetConfig
from foveal.config.optimisation import OptimiserConfig
from foveal.config.plan import ChannelConfig, LandmarksConfig, Plan
from foveal.config.settings import Settings
from foveal.errors import listed
from foveal.planning.splits import Fold, Splits
from foveal.preprocessing.intensity import WINDOW_PERCENTILES

Facts = list[tuple[str, str]]
"""Topic and a sentence or two."""


def dataset_facts(dataset: Dataset | None, plan: Plan, patients: str) -> Facts:
    """Cases, structures and who was trained on.

    Args:
        dataset: ``None``: it is not there any more.
        plan: Of the runs.
        patients: `patients_of_fold` or `patients_of_folds`.
    """
    labels = plan.labels
    where = "in brackets the value in the label maps"
    structures = ", ".join(
        f"{name} ({' + '.join(map(str, values))})"
        for name, values in labels.structure_values.items()
    )
    if labels.separate_masks:
        where = "one mask each"
        structures = ", ".join(labels.structure_values)
    counts = "is not there any more"
    if dataset is not None:
        counts = f"has {len(dataset.cases)} cases, {len(dataset.labelled)} labelled"
    ignored = labels.ignore_value
    return [
        ("Data set", f"{plan.dataset_name} {counts}."),
        (
            "Structures",
            f"{structures}; {where}."
            + (f" Voxels of value {ignored} count for nothing." if ignored else ""),
        ),
        ("Patients", patients),
    ]


def patients_of_fold(fold: Fold) -> str:
    """Who was trained on, validated and kept for the test in one run."""
    validated = listed(fold.validation) or "none"
    return (
        f"{len(fold.train)} were trained on, {len(fold.validation)} validated "
        f"({validated}) and {len(fold.test)} kept for the test, "
        "which training never reads."
    )


def patients_of_folds(splits: Splits) -> str:
    """How the patients were divided for a cross-validation."""
    sizes = ", ".join(str(len(fold.validation)) for fold in splits.folds)
    num_patients = sum(len(fold.validation) for fold in splits.folds)
    return (
        f"{num_patients} are divided into {len(splits.folds)} parts of {sizes}. Each "
        "fold validates on one part and trains on the others. "
        f"{len(splits.folds[0].test)} are kept for the test, which training never "
        "reads."
    )


def plan_facts(plan: Plan) -> Facts:
    """Grid, intensities, patches, network, left and right."""
    prepared, network, patches = plan.preprocessing, plan.network, plan.patches
    crops = {
        "none": "Nothing is cropped.",
        "nonzero": "Borders that are zero in every channel are cropped.",
        "mask": "What lies outside the mask's bounding box is cropped.",
    }
    are_pictures = plan.fingerprint is not None and plan.fingerprint.are_pictures
    extent_mm = [
        length * step
        for length, step in zip(patches.size, prepared.spacing_mm, strict=True)
    ]
    grid = (
        f"Every case is brought to {_product(prepared.spacing_mm, 2)} mm voxels in the "
        f"orientation {prepared.orientation}."
    )
    sight = f"{_product(patches.size)} voxels at once ({_product(extent_mm)} mm)"
    if are_pictures:
        grid = "Every picture is taken pixel by pixel; pixels have no size in mm."
        sight = f"{_product(patches.size)} pixels at once"
    filling = ""
    if prepared.missing_channel_value is not None:
        filling = (
            " A channel that a case lacks is filled with "
            f"{prepared.missing_channel_value:g} after that."
        )
    return [
        ("Grid", f"{grid} {crops[prepared.crop]}"),
        ("Intensities", " ".join(map(_channel_words, prepared.channels)) + filling),
        (
            "Patches",
            (f"The network sees {sight}, {patches.batch_size} such patches per step."),
        ),
        ("Network", _network_words(network)),
        ("Left and right", _mirroring_words(plan)),
    ]


def _regularisation_words(optimiser: OptimiserConfig) -> str:
    """What keeps weights small, with a semicolon before it; empty if nothing does."""
    chosen = {
        "weight decay": optimiser.weight_decay,
        "L1": optimiser.l1,
        "L2": optimiser.l2,
    }
    words = [f"{name} {value:g}" for name, value in chosen.items() if value]
    return f"; {', '.join(words)}" if words else ""


def _method_words(method: MethodConfig) -> str:
    """Name of a method, and its options that are set."""
    options = [
        f"{name} {', '.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in method.options.items()
        if value not in (None, ())
    ]
    return f"{method.name} ({'; '.join(options)})" if options else method.name


def training_facts(settings: Settings, seconds: float) -> Facts:
    """Loss, optimiser, sampling and length.

    Args:
        settings: Resolved.
        seconds: That the logged steps and validations took.
    """
    training, optimiser = settings.training, settings.optimiser
    words = {
        "cross_entropy": "cross entropy",
        "dice": "Dice",
        "border_cross_entropy": "cross entropy with border weights",
    }
    loss = " + ".join(
        words.get(name, name)
        if weight == 1
        else f"{weight:g} x {words.get(name, name)}"
        for name, weight in settings.loss.weights.items()
    )
    if settings.method.name in ("classification", "cclp_classification"):
        loss = "the cross entropy of which structures a patch shows"
    return [
        ("Method", f"{_method_words(settings.method)}; the loss is {loss}."),
        ("Where patches lie", _sampling_words(settings)),
        (
            "Optimiser",
            f"{optimiser.name}, learning rate {optimiser.learning_rate:g} with "
            f"{settings.schedule.warmup_steps} steps of warm-up, then "
            f"{settings.schedule.name}{_regularisation_words(optimiser)}."
            + (
                f" Weights are averaged over steps ({training.ema_decay:g})."
                if training.ema_decay
                else ""
            ),
        ),
        (
            "Length",
            (
                f"{training.steps} steps in {training.precision}, "
                f"{training.memory_layout.replace('_', ' ')}; seed {training.seed}; "
                f"{duration(seconds)} of steps and validations so far."
            ),
        ),
    ]


def _sampling_words(settings: Settings) -> str:
    """How patches are drawn, and from which cases."""
    sampling, error_maps = settings.sampling, settings.error_maps
    share = sampling.foreground_fraction
    chosen = {
        "uniform": "Anywhere in the case.",
        "class_balanced": f"{share:.0%} of the patches hold a voxel of a structure "
        "drawn first, the others lie anywhere.",
        "foreground_background": f"{share:.0%} of the patches lie around a voxel of "
        "any structure, the others around background.",
        "class_equal": "Around background and each structure of the case equally "
        "often.",
        "mask": "Around voxels of the case's mask.",
        "weight_map": "Around voxels as often as the case's weight map says.",
    }
    own = f"Drawn by {sampling.sampler}, a plugin's sampler."
    words = [chosen.get(sampling.sampler, own)]
    if sampling.adaptive:
        words.append(
            "Of these, those where the network still errs (adaptive sampling)."
        )
    if sampling.one_case_per_batch:
        words.append("All patches of a step come from one case.")
    if sampling.balance_domains:
        words.append("Every domain is equally likely, and every case in it.")
    if error_maps is not None and error_maps.curriculum_steps:
        words.append(
            "From easy to hard: at first only the cases with the smallest errors in "
            f"their structures, all from step {error_maps.curriculum_steps:,} on."
        )
    return " ".join(words)


def transfer_facts(settings: Settings) -> Facts:
    """What a run began with; empty where all weights were drawn and all learn alike."""
    transfer = settings.transfer
    words = []
    if transfer.weights is not None:
        words.append(
            f"Training began with weights learned elsewhere, {transfer.weights}; "
            "transfer.json in the run says what became of every layer."
        )
    if transfer.freeze:
        words.append(f"{', '.join(transfer.freeze)} did not learn.")
    if transfer.learning_rate_factors:
        factors = ", ".join(
            f"{name} {factor:g} times"
            for name, factor in transfer.learning_rate_factors.items()
        )
        words.append(f"The learning rate was multiplied: {factors}.")
    return [("Transfer", " ".join(words))] if words else []


def duration(seconds: float) -> str:
    """Length of time for people, such as ``4 min 05 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _network_words(network: NetworkConfig) -> str:
    if not isinstance(network, UNetConfig):
        options = network.model_dump(exclude={"name"}).items()
        return ", ".join(
            [network.name, *(f"{name} {value}" for name, value in options)]
        )
    return (
        f"{network.name} of {len(network.features)} stages with "
        f"{', '.join(str(count) for count in network.features)} channels, "
        f"{network.convolutions} convolutions per stage, {network.norm} norm"
        + (", deep supervision." if network.deep_supervision else ".")
    )


def _channel_words(channel: ChannelConfig) -> str:
    before = ""
    if channel.bias_field is not None:
        before += "bias field corrected by N4; "
    if isinstance(channel.landmarks, LandmarksConfig):
        before += (
            f"histogram brought to {len(channel.landmarks.values)} landmarks of "
            f"{channel.landmarks.num_cases} training cases; "
        )
    if channel.normalisation == "ct":
        low, high = channel.clip or (0.0, 0.0)
        # With landmarks, on their scale.
        unit = " HU" if channel.landmarks is None else ""
        return (
            f"{channel.name}: {before}clipped to {low:g} to {high:g}{unit}, then less "
            f"{channel.mean:.1f} and over {channel.deviation:.1f}{unit}, the mean and "
            "deviation of the data set's structures."
        )
    low, high = channel.percentiles or WINDOW_PERCENTILES
    meaning = {
        "robust_zscore": "per case, less the median and over the interquartile range",
        "zscore": "per case, less the mean and over the standard deviation"
        + (" of what lies within the cut-offs" if channel.cutoffs else ""),
        "percentiles": f"per case, percentiles {low:g} and {high:g} become 0 and 1",
        "unit": "per case, the smallest and largest value become 0 and 1",
        "none": "not scaled" if before else "as in the files",
    }
    return f"{channel.name}: {before}{meaning[channel.normalisation]}."


def _mirroring_words(plan: Plan) -> str:
    mirroring = plan.mirroring
    axes = ", ".join("ijk"[axis] for axis in mirroring.axes)
    pairs = ", ".join(
        f"{left} and {right}" for left, right in mirroring.left_right_pairs
    )
    reversed_axes = f"Patches are mirrored along {axes}." if axes else "No mirroring."
    if not pairs:
        return reversed_axes
    swaps = mirroring.sagittal_axis in mirroring.axes
    rule = "change places when left and right are mirrored" if swaps else "stay apart"
    return f"{reversed_axes} {pairs} {rule}."


def _product(lengths: Sequence[float], digits: int = 0) -> str:
    return " x ".join(f"{length:.{digits}f}" for length in lengths)
