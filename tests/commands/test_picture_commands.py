"""Pictures from the data set to the page: planned, trained on, predicted, measured."""

import numpy as np
import pytest
from PIL import Image

import foveal
from foveal import building
from foveal.commands.rehearsal import fitting_patches
from foveal.config.networks.registry import NETWORK_SECTIONS
from foveal.engine.run_directory import RunDirectory
from foveal.errors import SettingsError
from foveal.geometry import Grid
from foveal.io.volumes import read_volume, write_volume
from foveal.settings_files import read_plan

SMALL = [
    "network.name=unet2d",
    "network.features=[4,8]",
    "network.kernels=[[3,3],[3,3]]",
    "network.strides=[[2,2]]",
    "patches.size=[16,16,1]",
    "patches.batch_size=2",
    "training.precision=float32",
    "training.memory_layout=contiguous",
]


def cell(number):
    """A bright disc on noise, wider than high, and its mask of the values 1 and 2."""
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[:20, :28]
    row, column = random.integers(6, 14), random.integers(8, 20)
    inside = ((rows - row) / 4) ** 2 + ((columns - column) / 5) ** 2 < 1
    image = random.normal(60, 10, inside.shape) + 90 * inside
    return image.astype(np.uint8), (1 + inside).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for name in ("images", "labels"):
        (root / "data" / name).mkdir(parents=True)
    for number in range(6):
        image, label_map = cell(number)
        name = f"p{number // 2}-{number % 2}.png"
        Image.fromarray(image).save(root / "data" / "images" / name)
        Image.fromarray(label_map).save(root / "data" / "labels" / name)
    (root / "cells.toml").write_text(
        'folder = "data"\npatient = "^p[0-9]"\nlabels = { background = 1, cell = 2 }\n'
    )
    return root


@pytest.fixture(scope="module")
def run(folder):
    foveal.train(
        folder / "cells.toml",
        folder / "run",
        steps=2,
        options=[*SMALL, f"store={folder / 'store'}"],
    )
    return folder / "run"


def test_a_run_on_pictures_divides_by_patient_and_keeps_the_users_values(run):
    plan = read_plan(RunDirectory(run).plan)
    assert plan.network.name == "unet2d"
    assert plan.labels.background_value == 1
    written = sorted((run / "validation").glob("*.png"))
    assert len(written) == 2
    assert {path.name[:2] for path in written} in ({"p0"}, {"p1"}, {"p2"})


@pytest.mark.parametrize("many", [False, True])
def test_predictions_have_the_size_the_format_and_the_values_of_the_masks(
    run, folder, tmp_path, many
):
    images = folder / "data" / "images"
    out = tmp_path / "out"
    foveal.predict(run, images if many else images / "p0-0.png", out)
    with Image.open(out / "p0-0.png") as stored:
        assert (stored.size, stored.mode) == ((28, 20), "L")
        assert set(np.unique(stored).tolist()) <= {1, 2}
    assert len(list(out.glob("*.png"))) == (6 if many else 1)


def test_probabilities_of_a_png_are_a_tiff(run, folder, tmp_path):
    image = folder / "data" / "images" / "p0-0.png"
    foveal.predict(run, image, tmp_path / "out", probabilities=True)
    found = read_volume(tmp_path / "out" / "probabilities" / "p0-0" / "cell.tif")
    assert found.array.dtype == np.float32
    assert found.array.shape == (28, 20, 1)
    decided = read_volume(tmp_path / "out" / "p0-0.png").array == 2
    np.testing.assert_array_equal(found.array > 0.5, decided)


def test_what_is_written_is_what_the_model_says(run, folder, tmp_path):
    path = folder / "data" / "images" / "p1-0.png"
    foveal.predict(run, path, tmp_path / "a.tif")
    case = foveal.read_case(path)
    # Rows of the file are j, columns i: neither turned nor mirrored on the way.
    with Image.open(path) as picture:
        np.testing.assert_array_equal(case.image[0, ..., 0].T, np.asarray(picture))
    expected = foveal.load_model(run).predict(case)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, expected)


def test_scores_count_pixels_and_know_no_volume(folder, tmp_path):
    labels = folder / "data" / "labels"
    found = foveal.evaluate(labels, folder / "cells.toml")
    assert found.mean("cell", "dice") == 1.0
    assert found.mean("cell", "hd_mm") == 0.0
    assert np.isnan(found.mean("cell", "reference_volume_ml"))
    assert any("counts pixels" in note for note in found.notes)
    assert not any("Not measured" in note for note in found.notes)
    # A mask one pixel wider than the other is off by one pixel.
    for name, width in (("one", 4), ("other", 5)):
        (tmp_path / name).mkdir()
        mask = np.zeros((9, 9), np.uint8)
        mask[2:6, 2 : 2 + width] = 255
        Image.fromarray(mask).save(tmp_path / name / "a.png")
    off = foveal.evaluate(tmp_path / "one", tmp_path / "other")
    assert off.mean("255", "hd_mm") == 1.0


def test_page_and_preview_of_pictures_are_made(run, tmp_path):
    foveal.report(run, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "pixel by pixel" in page
    assert "axial slice" not in page
    assert "cannot be" not in page
    foveal.preview(run, tmp_path / "preview.png")
    with Image.open(tmp_path / "preview.png") as preview:
        assert min(preview.size) > 100


@pytest.mark.parametrize("network", ["unet3d"])
def test_a_3d_network_is_refused_and_2d_ones_are_named(folder, network, tmp_path):
    options = [f"network.name={network}"]
    with pytest.raises(
        SettingsError, match=rf"network {network} is 3D, but the cases .*unet2d"
    ):
        foveal.train(folder / "cells.toml", tmp_path, steps=1, options=options)


# ------------------------------------------------------------ 2D networks on volumes


def volume_plan(run, size, median_shape, spacing_mm, batch_size=2):
    plan = read_plan(RunDirectory(run).plan)
    fingerprint = plan.fingerprint.model_copy(update={"median_shape": median_shape})
    prepared = plan.preprocessing.model_copy(update={"spacing_mm": spacing_mm})
    return plan.model_copy(
        update={
            "network": NETWORK_SECTIONS["unet2d"](name="unet2d"),
            "fingerprint": fingerprint,
            "preprocessing": prepared,
            "patches": plan.patches.model_copy(
                update={"size": size, "batch_size": batch_size}
            ),
        }
    )


@pytest.mark.parametrize(
    ("planned", "median_shape", "spacing_mm", "size", "batch_size"),
    [
        ((40, 56, 40), (35.5, 50.0, 35.0), (1.0, 1.0, 1.0), (48, 64, 1), 16),
        ((80, 16, 80), (128.0, 60.0, 128.0), (1.0, 5.0, 1.0), (128, 1, 128), 12),
        ((96, 96, 64), (900.0, 700.0, 90.0), (0.5, 0.5, 2.0), (512, 512, 1), 4),
        ((16, 16, 1), (28.0, 20.0, 1.0), (1.0, 1.0, 1.0), (16, 16, 1), 2),
    ],
)
def test_slices_of_volumes_are_whole_and_many(
    run, planned, median_shape, spacing_mm, size, batch_size
):
    plan = volume_plan(run, planned, median_shape, spacing_mm)
    with_network = building.bare_network(plan)
    found = fitting_patches(plan, with_network)
    assert found.size == size
    assert found.batch_size == batch_size


def test_a_2d_network_is_trained_on_slices_and_predicts_whole_volumes(tmp_path):
    random = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for number in range(2):
        image = random.normal(100, 10, (12, 14, 5)).astype(np.float32)
        inside = np.zeros(image.shape, np.uint8)
        inside[3:8, 4:9, 1:4] = 3
        grid = Grid(image.shape, np.diag([1.0, 1.0, 4.0, 1.0]))
        for name, array in (("images", image + 20.0 * inside), ("labels", inside)):
            write_volume(tmp_path / "data" / name / f"{number}.nii.gz", array, grid)
    options = [option for option in SMALL if not option.startswith("patches")]
    foveal.train(
        tmp_path / "data",
        tmp_path / "run",
        steps=1,
        options=[*options, f"store={tmp_path / 'store'}"],
    )
    plan = read_plan(RunDirectory(tmp_path / "run").plan)
    assert plan.patches.size == (12, 14, 1)
    assert 2 < plan.patches.batch_size <= 16
    (written,) = (tmp_path / "run" / "validation").glob("*.nii.gz")
    assert read_volume(written).array.shape == (12, 14, 5)


def test_options_of_the_planned_network_need_no_name(folder, tmp_path):
    path = foveal.preview(
        folder / "cells.toml",
        tmp_path / "p.png",
        options=[*SMALL[1:], f"store={folder / 'store'}"],
    )
    assert path.exists()
