"""The engine drives a method it has never heard of, exactly and resumably."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from made_up import sources, training

from foveal.engine.checkpoints import has_checkpoint, load_checkpoint, load_newest
from foveal.engine.log import read_log
from foveal.engine.loop import LoopRules, run_loop
from foveal.errors import RunError, TrainingError
from foveal.methods.interface import Stream

STEPS = 8


def rules(steps=STEPS, threads=2):
    return LoopRules(
        total_steps=steps,
        validate_every_steps=3,
        checkpoint_every_seconds=0.0,
        loader_threads=threads,
    )


def run(run_dir, made, threads=2, on_progress=lambda _: None, validate=None):
    run_dir.mkdir(exist_ok=True)
    run_loop(
        made,
        sources(made.method),
        run_dir,
        rules(threads=threads),
        validate=validate,
        on_progress=on_progress,
    )


def cpu():
    return Fabric(accelerator="cpu", devices=1)


class KilledError(Exception):
    pass


def kill_at(step):
    def on_progress(now):
        if now.step == step:
            raise KilledError

    return on_progress


def assert_same_tensors(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_every_part_of_an_unknown_method_is_trained(tmp_path):
    made = training(cpu())
    before, _ = made.snapshot()
    run(tmp_path, made)
    after, state = made.snapshot()
    assert state["step"] == STEPS
    assert int(made.method.seen) == sum(range(1, STEPS + 1))
    for name in before:
        if name.startswith("method.") and name != "method.seen":
            assert not torch.equal(before[name], after[name]), name
    # The average is what predicts, and it lags behind the weights.
    weights = made.method.student.state_dict()
    network = made.frozen_predictor()
    assert any(
        not torch.equal(weights[name], tensor)
        for name, tensor in network.state_dict().items()
    )
    terms = [row["terms"] for row in read_log(tmp_path / "log.jsonl")]
    assert [set(term) for term in terms] == [{"segmentation", "critic"}] * STEPS


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_killed_and_resumed_equals_unbroken_to_the_bit(tmp_path, stop, precision):
    unbroken = training(cpu(), precision=precision)
    run(tmp_path / "unbroken", unbroken, threads=1)

    killed = training(cpu(), precision=precision)
    with pytest.raises(KilledError):
        run(tmp_path / "broken", killed, on_progress=kill_at(stop))
    resumed = training(cpu(), seed=6, precision=precision)
    resumed.seed = 5
    tensors, state, problems = load_newest(tmp_path / "broken" / "checkpoints")
    assert problems == []
    assert state["step"] == stop
    resumed.restore(tensors, state)
    run(tmp_path / "broken", resumed)

    assert_same_tensors(unbroken.snapshot()[0], resumed.snapshot()[0])
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("unbroken", "broken")]
    assert [row["step"] for row in logs[1]] == list(range(STEPS))
    assert [row["loss"] for row in logs[0]] == [row["loss"] for row in logs[1]]


def test_damaged_checkpoint_falls_back_to_the_previous_one(tmp_path):
    made = training(cpu())
    run(tmp_path, made)
    folder = tmp_path / "checkpoints"
    last = folder / "last.safetensors"
    data = bytearray(last.read_bytes())
    data[-10] ^= 1
    last.write_bytes(data)
    with pytest.raises(RunError, match="digest"):
        load_checkpoint(last)
    _, state, problems = load_newest(folder)
    assert state["step"] == STEPS - 1
    assert "damaged" in problems[0]
    last.write_bytes(data[: len(data) // 2])
    assert load_newest(folder)[1]["step"] == STEPS - 1
    last.unlink()
    assert has_checkpoint(folder)
    assert load_newest(folder)[1]["step"] == STEPS - 1
    (folder / "previous.safetensors").unlink()
    assert not has_checkpoint(folder)
    with pytest.raises(RunError, match="no checkpoint can be read"):
        load_newest(folder)


def test_best_checkpoint_is_the_best_validation(tmp_path):
    scores = iter([0.2, 0.7, 0.6])
    made = training(cpu())
    run(tmp_path, made, validate=lambda _: {"a": next(scores), "b": None})
    _, state = load_checkpoint(tmp_path / "checkpoints" / "best.safetensors")
    assert state["step"] == 6
    assert state["mean"] == 0.7
    rows = [row for row in read_log(tmp_path / "log.jsonl") if row["kind"] != "step"]
    assert [row["step"] for row in rows] == [3, 6, 8]
    written = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    assert written["scores"] == {"a": 0.7, "b": None}


def test_weights_that_may_not_be_the_best_are_not_kept_as_such(tmp_path):
    scores = iter([0.7, 0.2, 0.6])
    made = training(cpu())
    made.method.may_be_best = lambda share_done: share_done > 0.5
    run(tmp_path, made, validate=lambda _: {"a": next(scores)})
    _, state = load_checkpoint(tmp_path / "checkpoints" / "best.safetensors")
    assert (state["step"], state["mean"]) == (8, 0.6)


def test_loss_that_is_not_finite_names_the_cases_and_keeps_the_batch(tmp_path):
    made = training(cpu())
    forward = made.method.forward

    def breaks_at_two(batches, clock):
        terms = forward(batches, clock)
        return {**terms, "critic": terms["critic"] / (2 - clock.step)}

    made.method.forward = breaks_at_two
    with pytest.raises(TrainingError, match=r"step 2 .* labelled: labelled \d"):
        run(tmp_path, made)
    kept = tmp_path / "nonfinite_batch"
    assert (kept / "unlabelled.safetensors").exists()
    assert (kept / "labelled_cases.txt").read_text().count("labelled") == 2
    assert load_newest(tmp_path / "checkpoints")[1]["step"] == 2


def test_batch_is_halved_when_memory_runs_out(tmp_path):
    made = training(cpu())
    forward = made.method.forward
    sizes = []

    def needs_little(batches, clock):
        sizes.append(len(batches["labelled"].image))
        if clock.step >= 3 and sizes[-1] > 1:
            raise torch.OutOfMemoryError("out of memory")
        return forward(batches, clock)

    made.method.forward = needs_little
    notes = []
    run(tmp_path, made, on_progress=lambda now: notes.append(now.note))
    assert sizes == [2, 2, 2, 2, 1, 1, 1, 1, 1]
    assert made.step == STEPS
    assert "2 -> 1" in next(note for note in notes if note)
    assert made.snapshot()[1]["batch_halvings"] == 1


def test_a_stream_of_one_patch_keeps_it_when_others_are_halved(tmp_path):
    made = training(cpu())
    made.method.streams |= {"unlabelled": Stream("unlabelled", "uniform", 1)}
    forward = made.method.forward
    sizes = []

    def needs_little(batches, clock):
        sizes.append([len(batch.image) for batch in batches.values()])
        if sizes[-1] == [2, 1]:
            raise torch.OutOfMemoryError("out of memory")
        return forward(batches, clock)

    made.method.forward = needs_little
    run(tmp_path, made)
    assert sizes == [[2, 1]] + [[1, 1]] * STEPS


def test_one_patch_that_does_not_fit_is_an_error(tmp_path):
    made = training(cpu())

    def needs_much(*_):
        raise MemoryError

    made.method.forward = needs_much
    with pytest.raises(TrainingError, match=r"patches\.size"):
        run(tmp_path, made)


@pytest.mark.slow
def test_two_processes_agree_and_see_different_patches(tmp_path):
    """The mean of both gradients is applied, so both end with the same weights."""
    script = tmp_path / "two.py"
    script.write_text(
        "import sys, torch, pathlib\n"
        "from lightning_fabric import Fabric\n"
        "from made_up import training, sources\n"
        "from foveal.engine.loop import run_loop, LoopRules\n"
        "torch.set_num_threads(1)\n"
        "fabric = Fabric(accelerator='cpu', devices=2, strategy='ddp')\n"
        "fabric.launch()\n"
        "made = training(fabric)\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "patches = sources(made.method, fabric.global_rank)\n"
        "corners = [str(p.corner) for p in patches['labelled'].read(0)]\n"
        "run_loop(made, patches, out, LoopRules(4, 2, 0.0, 1),\n"
        "         validate=lambda _: {'a': 0.5}, on_progress=lambda _: None)\n"
        "weights = torch.cat([p.flatten() for p in made.method.parameters()])\n"
        "name = f'rank{fabric.global_rank}.txt'\n"
        "digest = weights.detach().double().cumsum(0).sum().item()\n"
        "(out / name).write_text(f'{digest!r}\\n' + ' '.join(corners))\n"
    )
    here = Path(__file__).parent
    source = here.parents[1] / "src"
    out = tmp_path / "run"
    out.mkdir()
    subprocess.run(
        [sys.executable, str(script), str(out)],
        check=True,
        timeout=240,
        env={
            **__import__("os").environ,
            "PYTHONPATH": f"{here}:{source}",
        },
    )
    digests, corners = zip(
        *((out / f"rank{n}.txt").read_text().split("\n") for n in (0, 1)), strict=True
    )
    assert digests[0] == digests[1]
    assert corners[0] != corners[1]
    steps = [
        row["step"] for row in read_log(out / "log.jsonl") if row["kind"] == "step"
    ]
    assert steps == [0, 1, 2, 3]
