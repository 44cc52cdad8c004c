"""Hosts: real training cases of the fold, as nnU-Net prepares them."""

import shutil

import numpy as np
import pytest
from phantom_fixtures import store_as_sagittal

from nnunet_sbldm.common.files import write_json
from nnunet_sbldm.data.cases import load_preprocessed, read_case
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.editing.hosts import HostTransform, allowed_hosts, deformed, load_host, mirrored
from nnunet_sbldm.types import OUTSIDE, UserError


def test_a_host_is_nnunets_own_array_and_pasting_nothing_changes_nothing(phantom_dataset):

    host = load_host(phantom_dataset, "phantom_001", HostTransform())
    image, label = load_preprocessed(phantom_dataset, "phantom_001")
    np.testing.assert_array_equal(host.image, image)
    np.testing.assert_array_equal(host.label, label)
    inside = host.native_label != OUTSIDE
    np.testing.assert_allclose(host.native_image[:, inside], image[:, inside], atol=1e-4)
    same = host.paste("x", host.native_image + 1, host.native_label, np.zeros(inside.shape, bool))
    np.testing.assert_array_equal(same.image, read_case(phantom_dataset, "phantom_001").image)
    other = host.paste("x", host.native_image - 99, host.native_label * 0, np.ones(inside.shape, bool))
    assert ((other.image != 0) == (host.case.image != 0)).all()  # exact zeros mark the outside


def test_mirroring_twice_is_nothing_and_deforming_keeps_the_outside_zero(phantom_dataset):
    case = read_case(phantom_dataset, "phantom_001")
    np.testing.assert_array_equal(mirrored(mirrored(case, 2), 2).image, case.image)
    bent = deformed(case, 6.0, seed=1)
    np.testing.assert_array_equal(bent.image, deformed(case, 6.0, seed=1).image)
    assert (bent.image == 0).all(axis=0).sum() == pytest.approx((case.image == 0).all(axis=0).sum(), rel=0.1)
    assert (bent.label[(bent.image == 0).all(axis=0)] == 0).all()
    assert (bent.image != case.image).mean() > 0.1
    assert (bent.label > 0).sum() == pytest.approx((case.label > 0).sum(), rel=0.3)
    assert bent.image.max() <= case.image.max()


def test_a_host_is_mirrored_between_its_own_left_and_right(phantom_dataset):
    files, mirrored_host = phantom_dataset.case_files["phantom_001"], HostTransform(mirrored=True)
    plain = read_case(phantom_dataset, "phantom_001").image
    assert np.array_equal(load_host(phantom_dataset, "phantom_001", mirrored_host).case.image, plain[..., ::-1])
    store_as_sagittal([*files["images"], files["label"]])
    assert np.array_equal(load_host(phantom_dataset, "phantom_001", mirrored_host).case.image, plain[:, ::-1])


def test_hosts_are_training_cases_of_the_fold_and_no_copies_or_patients_of_its_validation_cases(phantom, phantom_dataset):
    train, val = fold_cases(phantom_dataset, 0)
    assert allowed_hosts(phantom_dataset, 0) == train
    with pytest.raises(UserError, match=rf"{val[0]} cannot be a host in fold 0 of Dataset900_Phantom"):
        allowed_hosts(phantom_dataset, 0, [val[0]])
    patients = {c: c for c in (*train, *val)} | {train[0]: val[0]}
    write_json(phantom_dataset.preprocessed / "sbldm" / "groups.json", patients)
    assert train[0] not in allowed_hosts(phantom_dataset, 0)
    for c in range(2):
        shutil.copy(phantom_dataset.case_files[val[1]]["images"][c], phantom_dataset.case_files[train[1]]["images"][c])
    assert allowed_hosts(phantom_dataset, 0) == train[2:]
    with pytest.raises(UserError, match="No case of Dataset900_Phantom may be a host in fold 0"):
        allowed_hosts(phantom_dataset, 0, [train[1]])
    shutil.copy(phantom_dataset.case_files[val[1]]["label"], phantom_dataset.case_files[train[2]]["label"])
    assert allowed_hosts(phantom_dataset, 0) == train[3:]  # a second copy of the same validation case is one, too
