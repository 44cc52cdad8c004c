"""A sample: the same voxels and geometry in every library and file, and pictures that can be looked at."""

import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_sbldm import SBLDM, UserError
from nnunet_sbldm.api.samples import Samples

PNG = b"\x89PNG"


@pytest.fixture
def samples(generator):
    return SBLDM.load(generator.folder, device="cpu").sample(2, steps=2, presence=True)


def test_simpleitk_and_nibabel_get_what_the_files_hold(samples, tmp_path):
    sample = samples[0]
    first, second, label_file, record = sample.save(tmp_path)
    image, label = sample.to_sitk()
    read = sitk.ReadImage(str(second))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image)[..., 1], sitk.GetArrayFromImage(read))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), sitk.GetArrayFromImage(sitk.ReadImage(str(label_file))))
    for own, theirs in ((image.GetSpacing(), read.GetSpacing()), (image.GetOrigin(), read.GetOrigin()),
                        (label.GetDirection(), read.GetDirection())):
        assert own == pytest.approx(theirs)
    image, label = sample.to_nibabel()
    read = nibabel.load(first)
    np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 0], read.get_fdata())
    np.testing.assert_allclose(image.affine, read.affine, atol=1e-4)
    assert label.shape == read.shape
    assert record.name == f"{sample.case_id}.json"


def test_one_channel_is_a_scalar_image():
    (sample,) = SBLDM.load("hippocampus_t1", device="cpu").sample(steps=1)
    assert sample.to_sitk()[0].GetNumberOfComponentsPerPixel() == 1
    assert sample.to_nibabel()[0].ndim == 3


def test_torchio_is_asked_for_only_when_it_is_needed(samples, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchio", None)
    with pytest.raises(UserError, match="pip install torchio"):
        samples[0].to_torchio()


def test_torchio_gets_the_same_voxels_and_places(samples):
    pytest.importorskip("torchio")
    subject = samples[0].to_torchio()
    np.testing.assert_array_equal(subject["image"].data.numpy().transpose(0, 3, 2, 1), samples[0].image)
    np.testing.assert_allclose(subject["label"].affine, samples[0].to_nibabel()[1].affine)


def test_the_table_says_what_was_asked_and_obtained(samples):
    table = samples[0].table
    assert table.loc[("tumour", "presence"), "asked"] == 1
    assert table.loc[("tumour", "volume_ml"), "unit"] == "ml"
    mm3 = samples[0].label.astype(bool).sum() * np.prod(samples[0].spacing_mm)
    assert table.loc[("tumour", "volume_ml"), "obtained"] == pytest.approx(mm3 / 1000 if mm3 else np.nan, nan_ok=True)
    whole = samples.table
    assert list(whole.index) == ["sbldm_00000", "sbldm_00001"]
    assert whole[("asked", "tumour", "presence")].tolist() == [1, 1]


def test_pictures_are_shown_in_notebooks_and_windows(samples, monkeypatch):
    from matplotlib import pyplot

    assert samples[0]._repr_png_().startswith(PNG)
    assert "data:image/png;base64," in samples[0]._repr_html_()
    assert "volume_ml" in samples[0]._repr_html_()
    assert "2 samples" in samples._repr_html_()
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(pyplot.gcf()))
    samples.show()
    samples[0].show()
    assert [f.axes[0].images[0].get_array().ndim for f in shown] == [3, 3]


def test_parts_of_samples_are_samples(samples):
    assert isinstance(samples[:1], Samples)
    assert [s.case_id for s in samples[1:]] == ["sbldm_00001"]
    assert "no samples" not in repr(samples)
