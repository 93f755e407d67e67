"""Training on error maps that its pauses refresh: exact, resumable, told of."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from made_up import MemoryCase, sources, training

from foveal.engine.checkpoints import load_checkpoint, load_newest
from foveal.engine.error_maps import ErrorMapFolder
from foveal.engine.loading import Prefetcher
from foveal.engine.log import read_log
from foveal.engine.loop import LoopRules, run_loop
from foveal.engine.refreshing import PausedRefreshing, Rhythm
from foveal.inference.errors import CaseErrors
from foveal.sampling.adaptive import AdaptiveSampler
from foveal.sampling.curriculum import Curriculum
from foveal.sampling.laws import class_equal
from foveal.sampling.samplers import BaseSampler

STEPS = 9
EVERY = 3


def law(case, patch_size):
    return class_equal(case, patch_size, structures=((1,),))


class Adaptive:
    """A made-up training whose labelled patches are drawn by error maps."""

    def __init__(self, run_dir, *, seed=5, fabric=None):
        self.run_dir = run_dir
        run_dir.mkdir(exist_ok=True)
        fabric = fabric or Fabric(accelerator="cpu", devices=1)
        self.training = training(fabric, seed=seed)
        self.training.seed = 5
        made = sources(self.training.method, fabric.global_rank)
        self.cases = {case.name: case for case in made["labelled"].cases}
        image = SimpleNamespace(path=run_dir.parent / "store" / "key" / "image.tiles")
        self.maps = ErrorMapFolder(
            run_dir / "error_maps",
            {
                name: SimpleNamespace(name=name, shape=case.shape, image=image)
                for name, case in self.cases.items()
            },
        )
        base = BaseSampler(law)
        labelled = dataclasses.replace(
            made["labelled"],
            sampler=AdaptiveSampler(base, self.maps, epsilon=0.05, mode="direct"),
            curriculum=Curriculum(self.maps, 7),
        )
        self.sources = made | {"labelled": labelled}
        self.refreshing = PausedRefreshing(
            self.maps, Rhythm(EVERY, 2, "stalest", 5), self.find_errors
        )

    def find_errors(self, network, case):
        """Errors that another bit in the weights would change."""
        image = self.cases[case.name].image
        with torch.no_grad():
            wide = torch.from_numpy(image[:, :8, :8, :8]).unsqueeze(0)
            logits = network(wide).logits
        error = np.zeros(case.shape, np.uint8)
        error[:8, :8, :8] = (logits[0, 0].double().numpy() * 1e7).astype(np.int64) % 256
        return CaseErrors(error, float(error.mean() / 255), {"organ": 0.5})

    def run(self, on_progress=lambda _: None, checkpoint_every_seconds=0.0, threads=2):
        run_loop(
            self.training,
            self.sources,
            self.run_dir,
            LoopRules(STEPS, 4, checkpoint_every_seconds, threads),
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
        return read_log(self.run_dir / "log.jsonl")


class KilledError(Exception):
    pass


def kill_at(step):
    def on_progress(now):
        if now.step == step:
            raise KilledError

    return on_progress


def without_seconds(rows):
    timed = {"seconds", "waited_seconds"}
    return [{key: row[key] for key in row if key not in timed} for row in rows]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    made = Adaptive(tmp_path_factory.mktemp("unbroken") / "run")
    made.run(threads=1)
    return made


def test_log_tells_of_refreshes_ages_acceptance_and_places(unbroken):
    rows = unbroken.log()
    refreshes = [row for row in rows if row["kind"] == "refresh"]
    assert [row["step"] for row in refreshes] == [3, 6]
    assert [list(row["cases"]) for row in refreshes] == [
        ["labelled 0", "labelled 1"],
        ["labelled 2", "labelled 0"],
    ]
    steps = [row for row in rows if row["kind"] == "step"]
    assert all("map_age_steps" not in row for row in steps[:EVERY])
    assert all(row["acceptance"] == 1 for row in steps[:EVERY])
    assert all(0 < row["acceptance"] < 1 for row in steps[EVERY:])
    for row in steps:
        for name, *voxel in row["patches"]["labelled"]:
            shape = unbroken.cases[name].shape
            assert all(0 <= n < length for n, length in zip(voxel, shape, strict=True))
        assert len(row["patches"]["labelled"]) == 2
    versions = {3: {3}, 4: {3}, 5: {3}, 6: {3, 6}, 7: {3, 6}, 8: {3, 6}}
    for row in steps[EVERY:]:
        ages = {row["step"] - version for version in versions[row["step"]]}
        if "map_age_steps" in row:
            assert min(ages) <= row["map_age_steps"] <= max(ages)


def test_batches_after_a_pause_see_its_maps_and_none_before_does(tmp_path):
    """Prefetching does not cross a pause, however many threads are ahead."""
    made = Adaptive(tmp_path / "run")
    seen = []
    update = made.training.update

    def watched(batches, total):
        seen.append([draw.error_step for draw in batches["labelled"].draws])
        return update(batches, total)

    made.training.update = watched
    drawn_at = []
    sampler = made.sources["labelled"].sampler
    draw = sampler.draw

    def watched_draw(cases, size, random):
        drawn_at.append((made.training.step, dict(made.maps.steps)))
        return draw(cases, size, random)

    sampler.draw = watched_draw
    made.run(threads=4)
    assert seen[:3] == [[None, None]] * 3
    for step, versions in enumerate(seen):
        newest = step // EVERY * EVERY
        assert all(version is None or version <= newest for version in versions)
    assert {version for versions in seen[3:6] for version in versions} <= {3, None}
    assert any(6 in versions for versions in seen[6:])
    for step, versions in drawn_at:
        newest = step // EVERY * EVERY
        assert max(versions.values(), default=0) == newest


@pytest.mark.parametrize("stop", [1, 3, 4, 6, 8])
def test_killed_and_resumed_adaptive_run_equals_the_unbroken_one(
    tmp_path, unbroken, stop
):
    killed = Adaptive(tmp_path / "run")
    with pytest.raises(KilledError):
        killed.run(kill_at(stop))
    resumed = Adaptive(tmp_path / "run", seed=6)
    assert resumed.resume()["step"] == stop
    resumed.run()
    for name, tensor in unbroken.training.snapshot()[0].items():
        assert torch.equal(tensor, resumed.training.snapshot()[0][name]), name
    assert without_seconds(resumed.log()) == without_seconds(unbroken.log())
    assert resumed.maps.steps == unbroken.maps.steps
    for name, case in resumed.cases.items():
        whole = tuple(slice(0, length) for length in case.shape)
        first, second = (one.maps.current(name) for one in (unbroken, resumed))
        assert np.array_equal(first.read(whole), second.read(whole))
        assert first.difficulty == second.difficulty


def test_checkpoint_older_than_the_newest_maps_uses_its_own(tmp_path, unbroken):
    killed = Adaptive(tmp_path / "run")
    # Checkpoints only at validations, after steps 4 and 8; killed after pause 6.
    with pytest.raises(KilledError):
        killed.run(kill_at(7), checkpoint_every_seconds=1e9)
    assert killed.maps.newest("labelled 2") == 6
    resumed = Adaptive(tmp_path / "run", seed=6)
    assert resumed.resume()["step"] == 4
    assert resumed.maps.steps == {"labelled 0": 3, "labelled 1": 3}
    resumed.run()
    assert without_seconds(resumed.log()) == without_seconds(unbroken.log())
    for name, tensor in unbroken.training.snapshot()[0].items():
        assert torch.equal(tensor, resumed.training.snapshot()[0][name]), name


def test_killed_while_maps_are_made_anew_begins_the_refresh_again(tmp_path, unbroken):
    killed = Adaptive(tmp_path / "run")
    find_errors = killed.find_errors

    def dies_at_the_fourth(network, case):
        if killed.maps.newest("labelled 2") == 6:
            raise KilledError
        return find_errors(network, case)

    killed.refreshing._find_errors = dies_at_the_fourth
    with pytest.raises(KilledError):
        killed.run()
    resumed = Adaptive(tmp_path / "run", seed=6)
    assert resumed.resume()["step"] == 6
    resumed.run()
    assert without_seconds(resumed.log()) == without_seconds(unbroken.log())


def test_previous_checkpoint_can_be_resumed_after_the_last_is_lost(tmp_path, unbroken):
    killed = Adaptive(tmp_path / "run")
    with pytest.raises(KilledError):
        killed.run(kill_at(7))
    (tmp_path / "run" / "checkpoints" / "last.safetensors").unlink()
    resumed = Adaptive(tmp_path / "run", seed=6)
    assert resumed.resume()["step"] == 6
    resumed.run()
    assert without_seconds(resumed.log()) == without_seconds(unbroken.log())


def test_every_kept_checkpoint_names_maps_that_are_there(tmp_path):
    made = Adaptive(tmp_path / "run")

    def look(now):
        for name in ("last", "previous"):
            path = made.run_dir / "checkpoints" / f"{name}.safetensors"
            if path.exists():
                versions = load_checkpoint(path)[1]["refreshing"]["versions"]
                for case, step in versions.items():
                    of_case = made.maps.path / "cases" / case
                    maps = of_case / f"step_{step:07d}.tiles"
                    assert maps.exists(), (now.step, name)

    made.run(look)


def test_batch_halved_right_after_a_pause_does_not_refresh_again(tmp_path):
    made = Adaptive(tmp_path / "run")
    forward = made.training.method.forward

    def needs_little(batches, clock):
        if clock.step >= 3 and len(batches["labelled"].image) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return forward(batches, clock)

    made.training.method.forward = needs_little
    made.run()
    refreshed = [row["step"] for row in made.log() if row["kind"] == "refresh"]
    assert refreshed == [3, 6]
    assert made.training.step == STEPS


@pytest.mark.slow
def test_two_processes_draw_by_the_same_maps_and_keep_those_of_checkpoints(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        "import json, pathlib, sys, torch\n"
        "from lightning_fabric import Fabric\n"
        "from test_adaptive_loop import Adaptive\n"
        "torch.set_num_threads(1)\n"
        "fabric = Fabric(accelerator='cpu', devices=2, strategy='ddp')\n"
        "fabric.launch()\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "made = Adaptive(out, fabric=fabric)\n"
        "made.run(checkpoint_every_seconds=1e9, threads=1)\n"
        "parameters = made.training.method.parameters()\n"
        "weights = torch.cat([p.flatten() for p in parameters])\n"
        "told = [made.maps.steps, weights.detach().double().sum().item()]\n"
        "(out / f'rank{fabric.global_rank}.json').write_text(json.dumps(told))\n"
    )
    here = Path(__file__).parent
    out = tmp_path / "run"
    out.mkdir()
    subprocess.run(
        [sys.executable, str(script), str(out)],
        check=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": f"{here}:{here.parents[1] / 'src'}"},
    )
    first, second = (json.loads((out / f"rank{n}.json").read_text()) for n in (0, 1))
    assert first == second
    assert set(first[0].values()) == {3, 6}
    for name in ("last", "previous"):
        path = out / "checkpoints" / f"{name}.safetensors"
        versions = load_checkpoint(path)[1]["refreshing"]["versions"]
        for case, step in versions.items():
            assert (
                out / "error_maps" / "cases" / case / f"step_{step:07d}.tiles"
            ).exists()


def patches_of(source, step):
    return [
        (patch.case.name, patch.draw.centre, patch.corner)
        for patch in source.read(step)
    ]


def one_case_source(cases=4, batch_size=3):
    made = sources(training(Fabric(accelerator="cpu", devices=1)).method)["labelled"]
    return dataclasses.replace(
        made,
        cases=[MemoryCase(f"case {n}", n) for n in range(cases)],
        batch_size=batch_size,
        sampler=BaseSampler(law),
        one_case_per_batch=True,
    )


def test_patches_of_a_batch_come_from_one_case_each_equally_likely():
    source = one_case_source()
    names = []
    for step in range(120):
        patches = patches_of(source, step)
        (name,) = {name for name, *_ in patches}
        assert len({centre for _, centre, _ in patches}) > 1
        names.append(name)
    counts = [names.count(f"case {n}") for n in range(4)]
    assert sum(counts) == 120
    assert max(abs(count - 30) for count in counts) < 18


class FixedMaps(dict):
    def current(self, case_name):
        return self.get(case_name)


@pytest.mark.parametrize("one_case", [True, False])
def test_loader_is_deterministic_with_curriculum_and_one_case(one_case):
    maps = FixedMaps(
        {f"case {n}": SimpleNamespace(difficulty=n / 10) for n in (3, 1, 0)}
    )
    source = dataclasses.replace(
        one_case_source(), curriculum=Curriculum(maps, 10), one_case_per_batch=one_case
    )
    alone = [patches_of(source, step) for step in range(8)]
    device = torch.device("cpu")
    with Prefetcher({"labelled": source}, device, 4) as loader:
        for step, batches in enumerate(loader.batches(0, 8)):
            batch = batches["labelled"]
            places = zip(
                batch.case_names,
                (draw.centre for draw in batch.draws),
                batch.corners,
                strict=True,
            )
            assert list(places) == alone[step]
    # 30 % of four cases are two, those of the smallest errors.
    assert {name for name, *_ in alone[0]} <= {"case 0", "case 1"}
