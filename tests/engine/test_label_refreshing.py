"""Labels that pauses make: exact, resumable, refused where a structure vanishes."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from made_up import (
    MemoryCase,
    intensity_augmentation,
    sources,
    spatial_augmentation,
)

from foveal.building import network
from foveal.case import IGNORED
from foveal.engine.checkpoints import load_checkpoint, load_newest
from foveal.engine.composed_refreshing import ComposedRefreshing
from foveal.engine.label_refreshing import (
    LabellingRules,
    LabellingWatcher,
    LabelRefreshing,
    class_counts,
)
from foveal.engine.log import read_log
from foveal.engine.loop import LoopRules, run_loop
from foveal.engine.made_labels import MadeLabels
from foveal.engine.training import Training, UpdateRules
from foveal.errors import RunError, TrainingError
from foveal.inference.numerics import Numerics
from foveal.losses.cross_entropy import cross_entropy
from foveal.methods.interface import Setting
from foveal.methods.labelled_loss import LabelledLoss
from foveal.methods.pseudo_label import PseudoLabel

STEPS = 7
STRUCTURES = torch.tensor([[False, True]])
KINDS = ("hard", "soft")


def pseudo_label(labels, seed=5):
    torch.manual_seed(seed)
    setting = Setting(
        network=network(
            "unet3d",
            in_channels=1,
            num_classes=2,
            features=(2, 4),
            kernels=((3, 3, 3),) * 2,
            strides=((2, 2, 2),),
            norm="batch",
            dropout_fraction=0.2,
        ),
        labelled_loss=LabelledLoss({"cross_entropy": (cross_entropy, 1.0)}),
        sampler="uniform",
        batch_size=1,
        in_channels=1,
        patch_size=(8, 8, 8),
        spacing_mm=(1.0, 1.0, 2.0),
        structures=STRUCTURES,
        spatial=spatial_augmentation(),
        intensity=intensity_augmentation(),
    )
    return PseudoLabel(
        setting,
        labels=labels,
        threshold=0.5,
        weight=0.5,
        ramp_up_fraction=0.5,
        every_steps=3,
        least_share=0.0,
        batch_size=2,
    )


def of_store(cases):
    """What labels of cases in memory are kept by."""
    return [
        SimpleNamespace(
            name=case.name,
            shape=case.shape,
            image=SimpleNamespace(
                path=SimpleNamespace(parent=SimpleNamespace(name="k"))
            ),
        )
        for case in cases
    ]


class PseudoLabelled:
    """A made-up training on labels that its predictor makes of two cases."""

    def __init__(self, run_dir, labels, *, seed=5):
        self.run_dir = run_dir
        run_dir.mkdir(exist_ok=True)
        method = pseudo_label(labels, seed)
        optimiser = torch.optim.AdamW(method.parameters(), lr=1e-2)
        self.training = Training(
            method,
            {"network": optimiser},
            Fabric(accelerator="cpu", devices=1),
            numerics=Numerics("float32", "contiguous"),
            rules=UpdateRules(
                lambda step, total: 1.0, gradient_clip_norm=1.0, ema_decay=0.5
            ),
            seed=5,
        )
        self.sources = sources(method)
        self.cases = {case.name: case for case in self.sources["unlabelled"].cases}
        self.labels = MadeLabels(
            run_dir / "made_labels",
            of_store(self.cases.values()),
            2,
            are_soft=labels == "soft",
        )
        self.sources["unlabelled"] = dataclasses.replace(
            self.sources["unlabelled"], made_labels=self.labels
        )
        self.refreshing = LabelRefreshing(
            self.labels,
            "unlabelled",
            LabellingRules(3, {"organ": (1,)}, [], 0.0),
            self.make_labels,
            LabellingWatcher(),
        )

    def make_labels(self, network, case):
        """Labels that another bit in the weights would change."""
        image = torch.from_numpy(self.cases[case.name].image[None, :, :12, :8, :8])
        with torch.no_grad():
            logits = network(image).logits[0].double()
        odd = (logits[0] * 1e7).long() % 2
        probabilities = torch.full((2, *case.shape), 0.2, dtype=torch.float64)
        probabilities[:, :12, :8, :8] = torch.stack((odd, 1 - odd)) * 0.8
        return self.training.method.refresh.labels(probabilities).numpy()

    def run(self, stop=None, checkpoint_every_seconds=0.0):
        def on_progress(now):
            if now.step == stop:
                raise KilledError

        run_loop(
            self.training,
            self.sources,
            self.run_dir,
            LoopRules(STEPS, 4, checkpoint_every_seconds, 1),
            validate=lambda _: {"organ": 0.5},
            on_progress=on_progress,
            refreshing=self.refreshing,
        )

    def resume(self):
        tensors, state, _ = load_newest(self.run_dir / "checkpoints")
        self.training.restore(tensors, state)
        self.refreshing.restore(state["refreshing"])
        return state

    def log(self):
        timed = {"seconds", "waited_seconds"}
        return [
            {key: row[key] for key in row if key not in timed}
            for row in read_log(self.run_dir / "log.jsonl")
        ]


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    made = {}
    for kind in KINDS:
        made[kind] = PseudoLabelled(tmp_path_factory.mktemp(kind) / "run", kind)
        made[kind].run()
    return made


def require_same(one, other):
    for name, tensor in one.training.snapshot()[0].items():
        assert torch.equal(tensor, other.training.snapshot()[0][name]), name
    assert one.log() == other.log()


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_made_before_the_first_step_and_every_so_many(unbroken, kind):
    rows = unbroken[kind].log()
    refreshes = [row for row in rows if row["kind"] == "refresh"]
    assert [row["step"] for row in refreshes] == [0, 3, 6]
    assert all(row["labels"]["voxels"]["organ"] > 0 for row in refreshes)
    steps = [row for row in rows if row["kind"] == "step"]
    assert steps[0]["terms"]["pseudo_cross_entropy"] == 0
    assert all(row["terms"]["pseudo_cross_entropy"] > 0 for row in steps[1:])
    assert all(0 < row["measures"]["pseudo_label_share"] < 1 for row in steps)


@pytest.mark.parametrize(("kind", "stop"), [("hard", 3), ("hard", 5), ("soft", 3)])
def test_killed_and_resumed_run_equals_the_unbroken_one(tmp_path, unbroken, kind, stop):
    with pytest.raises(KilledError):
        PseudoLabelled(tmp_path / "run", kind).run(stop)
    resumed = PseudoLabelled(tmp_path / "run", kind, seed=6)
    assert resumed.resume()["step"] == stop
    resumed.run()
    require_same(resumed, unbroken[kind])


def test_run_killed_between_labels_and_the_next_checkpoint_makes_them_again(
    tmp_path, unbroken
):
    killed = PseudoLabelled(tmp_path / "run", "hard")
    make_labels = killed.make_labels
    labelled = []

    def dies_at_the_last_case(network, case):
        labelled.append(case.name)
        if len(labelled) == 6:
            raise KilledError
        return make_labels(network, case)

    killed.refreshing._make_labels = dies_at_the_last_case
    with pytest.raises(KilledError):
        killed.run(checkpoint_every_seconds=1e9)
    resumed = PseudoLabelled(tmp_path / "run", "hard", seed=6)
    # The labels of step 6 are half there; those of step 3 are this checkpoint's.
    assert resumed.resume()["step"] == 4
    assert resumed.labels.version == 3
    resumed.run()
    require_same(resumed, unbroken["hard"])


def test_every_kept_checkpoint_names_labels_that_are_there_and_no_others_stay(
    unbroken,
):
    made = unbroken["hard"]
    there = {path.name for path in made.labels.path.iterdir()}
    versions = set()
    for name in ("last", "previous"):
        path = made.run_dir / "checkpoints" / f"{name}.safetensors"
        versions.add(load_checkpoint(path)[1]["refreshing"]["version"])
    assert {f"step_{version:07d}" for version in versions} <= there
    assert "step_0000000" not in there


class Scripted:
    """Labelling of two cases of 100 voxels with so many of a structure each time."""

    def __init__(self, folder, voxels, *, expected=(), least_share=0.5, every=2):
        cases = of_store([SimpleNamespace(name=n, shape=(10, 10, 1)) for n in "ab"])
        self.labels = MadeLabels(folder, cases, 3, are_soft=False)
        self.sentences = []
        self.done = []
        coming = iter(voxels)

        def make_labels(_, case):
            labels = np.zeros(case.shape, np.uint8)
            labels.flat[:50] = IGNORED
            if case.name == "a":
                labels.flat[50 : 50 + next(coming)] = 1
            return labels

        rules = LabellingRules(
            every, {"ball": (1,), "box": (2,)}, expected, least_share
        )
        self.refreshing = LabelRefreshing(
            self.labels,
            "unlabelled",
            rules,
            make_labels,
            LabellingWatcher(
                self.sentences.append, lambda *told: self.done.append(told)
            ),
        )

    def pause(self, step):
        return self.refreshing.at_pause(step, lambda: None)


def test_row_counts_the_voxels_that_have_a_label(tmp_path):
    made = Scripted(tmp_path, [20])
    row = made.pause(0)
    assert row["labels"] == {
        "cases": 2,
        "labelled_share": 0.5,
        "voxels": {"ball": 20, "box": 0},
        "lost": [],
    }
    assert made.done == [(1, 2, "a"), (2, 2, "b")]
    assert (
        made.sentences[0] == "labelling 2 unlabelled cases with the weights of step 0"
    )
    assert made.sentences[1].endswith("s: 50.0% of the voxels have a label")
    assert (made.pause(0), made.pause(1)) == (None, None)
    assert (made.refreshing.next_pause(0), made.refreshing.next_pause(3)) == (2, 4)


def test_labels_are_made_once_where_no_steps_are_named(tmp_path):
    made = Scripted(tmp_path, [20], every=None)
    assert made.refreshing.next_pause(0) is None
    made.pause(0)
    assert made.pause(8) is None


def test_structure_that_is_found_nowhere_at_the_start_is_refused_by_name(tmp_path):
    made = Scripted(tmp_path, [20], expected=["ball", "box"])
    with pytest.raises(TrainingError, match="find box in none of the 2 unlabelled"):
        made.pause(0)
    assert made.labels.version is None


@pytest.mark.parametrize(("least_share", "left"), [(0.5, 9), (0.0, 0)])
def test_labels_that_lose_a_structure_are_not_used(tmp_path, least_share, left):
    made = Scripted(tmp_path, [20, left, 11], least_share=least_share)
    made.pause(0)
    row = made.pause(2)
    assert row["labels"]["lost"] == ["ball"]
    assert "are not used, and those of step 0 stay" in row["note"]
    assert f"ball {left / 20:.0%}" in made.sentences[-1]
    assert made.labels.version == 0
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000000"]
    # Against the first labels, however often some were refused.
    assert "note" not in made.pause(4)
    assert made.labels.version == 4


def test_class_of_a_probability_counts_where_one_is_known():
    soft = np.zeros((3, 2, 2, 1), np.uint8)
    soft[:, 0, 0, 0] = (10, 200, 45)
    soft[:, 1, 1, 0] = (240, 10, 5)
    assert class_counts(soft, 3, are_soft=True).tolist() == [1, 1, 0]


@pytest.mark.parametrize("are_soft", [False, True])
def test_labels_come_back_as_they_were_written(tmp_path, are_soft):
    cases = of_store([SimpleNamespace(name=n, shape=(40, 35, 3)) for n in "ab"])
    labels = MadeLabels(tmp_path, cases, 3, are_soft=are_soft)
    shape = (3, 40, 35, 3) if are_soft else (40, 35, 3)
    drawn = np.random.default_rng(0).integers(0, 3, (2, *shape)).astype(np.uint8)
    window = (slice(30, 40), slice(0, 35), slice(1, 2))
    unknown = labels.read("a", window)
    assert unknown.shape == drawn[0][..., *window].shape
    assert (unknown == (0 if are_soft else IGNORED)).all()
    labels.write(4, zip(cases, drawn, strict=True))
    labels.use(4)
    assert (labels.read("b", window) == drawn[1][..., *window]).all()


def test_lost_or_other_labels_are_refused(tmp_path):
    cases = of_store([SimpleNamespace(name=n, shape=(4, 3, 3)) for n in "ab"])
    labels = MadeLabels(tmp_path, cases, 3, are_soft=False)
    made = [(case, np.zeros(case.shape, np.uint8)) for case in cases]
    with pytest.raises(RunError, match=r"step_0000004/labels\.json is missing"):
        labels.use(4)
    labels.write(4, made)
    with pytest.raises(RunError, match="labels of other scans, another plan"):
        MadeLabels(tmp_path, cases[:1], 3, are_soft=False).use(4)
    (tmp_path / "step_0000004" / "b.tiles").unlink()
    with pytest.raises(RunError, match=r"b\.tiles is missing"):
        labels.use(4)


class Every:
    """Refreshes every so many steps and says so."""

    def __init__(self, steps, name):
        self.steps, self.name, self.restored = steps, name, None
        self.is_closed = self.fails = False

    def next_pause(self, step):
        return None if self.steps is None else (step // self.steps + 1) * self.steps

    def at_pause(self, step, predictor):
        if self.steps is None or step % self.steps:
            return None
        return {self.name: step, "seconds": 1.5}

    def after_step(self, step, predictor):
        return [{"of": self.name}]

    def state(self):
        return {"name": self.name}

    def saved(self, state):
        assert state == self.state()

    def restore(self, state):
        self.restored = state

    def close(self):
        self.is_closed = True
        if self.fails:
            raise RuntimeError("it does not close")


def test_two_that_refresh_do_as_each_would_alone():
    parts = {"maps": Every(4, "cases"), "labels": Every(6, "labels")}
    both = ComposedRefreshing(parts)
    assert [both.next_pause(step) for step in (0, 4, 6, 8)] == [4, 6, 8, 12]
    assert both.at_pause(5, None) is None
    assert both.at_pause(6, None) == {"labels": 6, "seconds": 1.5}
    assert both.at_pause(12, None) == {"cases": 12, "labels": 12, "seconds": 3.0}
    assert both.after_step(1, None) == [{"of": "cases"}, {"of": "labels"}]
    state = both.state()
    both.saved(state)
    both.restore(state)
    assert [part.restored["name"] for part in parts.values()] == ["cases", "labels"]
    both.close()
    assert all(part.is_closed for part in parts.values())
    for part in parts.values():
        part.is_closed, part.fails = False, True
    with pytest.raises(RuntimeError, match="does not close"):
        both.close()
    assert all(part.is_closed for part in parts.values())
    never = ComposedRefreshing({"one": Every(None, "one")})
    assert never.next_pause(3) is None


def patches_with(labels, kind, *, swapped=(0, 1)):
    """Batches of one stream whose cases are labelled so, with their own label maps."""
    made = sources(pseudo_label(kind))["labelled"]
    case = MemoryCase("one", 3)
    spatial = dataclasses.replace(
        made.spatial, swapped_classes=swapped, mirror_probability=1.0
    )
    return dataclasses.replace(
        made,
        cases=[case],
        spatial=spatial,
        made_labels=labels,
        patch_size=(14, 8, 8),
        batch_size=4,
    )


def test_made_label_maps_move_with_the_image_as_an_experts_do(tmp_path):
    experts = patches_with(None, "hard")
    case = experts.cases[0]
    labels = MadeLabels(tmp_path, of_store([case]), 2, are_soft=False)
    labels.write(0, [(of_store([case])[0], case.label_map)])
    labels.use(0)
    made = patches_with(labels, "hard")
    for step in range(3):
        one, other = (
            source.batch(step, source.read(step), torch.device("cpu"))
            for source in (experts, made)
        )
        assert torch.equal(one.label_map, other.label_map)
        assert torch.equal(one.image, other.image)
        assert other.annotated.all()
        assert (other.label_map == IGNORED).any()


def test_made_probabilities_move_with_the_image_and_change_sides(tmp_path):
    case = patches_with(None, "soft").cases[0]
    labels = MadeLabels(tmp_path, of_store([case]), 2, are_soft=True)
    probabilities = np.stack((case.label_map == 0, case.label_map == 1)) * np.uint8(255)
    labels.write(0, [(of_store([case])[0], probabilities)])
    labels.use(0)
    soft = patches_with(labels, "soft", swapped=(1, 0))
    hard = patches_with(None, "hard", swapped=(1, 0))
    device = torch.device("cpu")
    for step in range(3):
        one = hard.batch(step, hard.read(step), device)
        other = soft.batch(step, soft.read(step), device)
        assert torch.equal(one.image, other.image)
        sure = other.soft_labels.amax(dim=1) > 0.999
        assert sure.float().mean() > 0.02
        classes = other.soft_labels.argmax(dim=1)
        assert torch.equal(classes[sure], one.label_map[sure].long())
        assert other.soft_labels.sum(dim=1).max() <= 1 + 1e-5
        # Beyond the volume nothing is known.
        assert (other.soft_labels.sum(dim=1) == 0).any()
