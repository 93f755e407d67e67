"""The two sets of real pictures, if they are there."""

import numpy as np
from conftest import data_folder
from PIL import Image

import foveal
from foveal.io.datasets import read_dataset
from foveal.planning.fingerprint import fingerprint_cases
from foveal.planning.memory import Budget
from foveal.planning.plan import choose_labels, make_plan


def test_slices_of_hearts_are_grey_and_belong_to_fifteen_patients(tmp_path):
    folder = data_folder("cardiac_2d")
    table = tmp_path / "hearts.toml"
    table.write_text(
        f'folder = "{folder}"\npatient = "SC-[A-Z-]+-[0-9]+"\n'
        "labels = { left_ventricle = 255 }\n"
    )
    dataset = read_dataset(table)
    assert len(dataset.cases) == 260
    assert len({case.patient for case in dataset.cases}) == 15
    assert dataset.channel_names == ("grey",)
    case = foveal.read_case(dataset.cases[0])
    with Image.open(case.path) as stored:
        assert stored.mode == "RGB"
        pixels = np.asarray(stored)
    np.testing.assert_array_equal(case.image[0, ..., 0].T, pixels[..., 1])
    assert set(np.unique(case.label_map)) == {0, 255}


def test_membranes_are_planned_with_a_2d_network():
    dataset = read_dataset(data_folder("membrane_em"))
    fingerprints = fingerprint_cases(
        dataset.labelled[:3], dataset.structures, ignore_value=None, threads=1
    )
    labels, _ = choose_labels(
        fingerprints,
        label_values=dataset.label_values,
        regions={},
        ignore_value=None,
        has_structure_files=False,
    )
    plan, _ = make_plan(
        fingerprints,
        dataset_name="membranes",
        channel_names=dataset.channel_names,
        labels=labels,
        budget=Budget("cpu", 8e9, 120e9, "made up"),
    )
    assert plan.network.name == "unet2d"
    assert plan.patches.size == (464, 464, 1)
    assert plan.labels.values == (255,)
    assert plan.mirroring.axes == (0, 1)
    assert plan.preprocessing.crop == "none"
