"""`foveal train` with two scanners, one of which nobody outlined."""

import nibabel as nib
import numpy as np
import pytest
from phantoms import ball_and_box
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.engine.checkpoints import load_checkpoint
from foveal.engine.log import read_log

SMALL = (
    "--steps=6",
    "--set=method.name=adversarial",
    "--set=method.features=[4,4,4,4]",
    "--set=splits.folds=1",
    "--set=network.features=[3,4]",
    "--set=network.kernels=[[3,3,3],[3,3,3]]",
    "--set=network.strides=[[2,2,2]]",
    "--set=patches.size=[12,12,12]",
    "--set=patches.batch_size=1",
    "--set=training.threads=1",
    "--set=training.precision=float32",
    "--set=training.memory_layout=contiguous",
)


@pytest.fixture
def table(tmp_path):
    rows = ["case,channel_mr,label_map,domain"]
    for n, domain in enumerate("AABB"):
        image, label_map = ball_and_box(n)
        for kind, array in (("image", image), ("labels", label_map)):
            nib.save(
                nib.Nifti1Image(array, np.diag([1.5, 1.5, 2.0, 1.0])),
                tmp_path / f"{kind}_{n}.nii",
            )
        labels = f"labels_{n}.nii" if domain == "A" else ""
        rows.append(f"c{n},image_{n}.nii,{labels},{domain}")
    path = tmp_path / "cases.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def foveal(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def test_both_scanners_are_seen_and_the_report_shows_how_they_differ(table, tmp_path):
    run = tmp_path / "run"
    store = f"--set=store={tmp_path / 'store'}"
    status, text = foveal("train", table, "--out", run, store, *SMALL)
    assert status == 0, text
    rows = [row for row in read_log(run / "log.jsonl") if row["kind"] == "step"]
    assert len(rows) == 6
    seen = {
        name: {case for row in rows for case, *_ in row["patches"][name]}
        for name in ("labelled", "source", "target")
    }
    assert seen["labelled"] | seen["source"] <= {"c0", "c1"}
    assert seen["target"] <= {"c2", "c3"}
    assert all("domain" in row["terms"] for row in rows)
    # 0 in the first fifth, full from seven tenths on.
    alphas = [row["measures"]["alpha"] for row in rows]
    assert alphas == pytest.approx([0, 0, 0.04 / 3, 0.03, 0.14 / 3, 0.05], abs=1e-9)
    tensors, _ = load_checkpoint(run / "checkpoints" / "last.safetensors")
    assert any(name.startswith("method.discriminator.") for name in tensors)
    assert not any(name.startswith("predictor.discr") for name in tensors)
    status, text = foveal("report", run)
    assert status == 0, text
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Discriminator accuracy" in page
    assert "How much the network counters the discriminator" in page


def test_a_layer_that_does_not_exist_is_refused_before_a_run_is_made(table, tmp_path):
    run = tmp_path / "run"
    wrong = '--set=method.layers=["conv3"]'
    status, text = foveal("train", table, "--out", run, *SMALL, wrong)
    assert status != 0
    assert "method.layers: no layer is called conv3; there are encoder.0" in text
    assert not (run / "log.jsonl").exists()
