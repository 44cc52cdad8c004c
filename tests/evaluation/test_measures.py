"""Measures of masks: how labels touch, and specks."""

import numpy as np
import pytest

from nnunet_sbldm.data.conditions import Target
from nnunet_sbldm.evaluation.measures import contacts, count_specks
from nnunet_sbldm.types import OUTSIDE

TUMOUR = Target("tumour", (1,))


def test_contact_tells_nested_from_apart_and_specks_are_counted():
    label = np.zeros((8, 16, 16), np.int16)
    label[2:6, 2:8, 2:8] = 2
    label[3:5, 4:6, 4:6] = 1
    first, second = Target("core", (1,)), Target("edema", (2,))
    nested = contacts(label, (first, second))
    assert nested[0] == 1
    assert nested[1] == pytest.approx(8 / (8 + 2 * 36 + 4 * 24))  # all of the core, and the shell
    assert contacts(np.where(label == 2, 0, label), (first, second))[0] == 0
    label[7, 15, 15] = 1
    assert count_specks(label, {"1": 8, "2": 4}) == 1


def test_outside_is_no_foreground():
    label = np.full((4, 6, 6), OUTSIDE, np.int16)
    label[1:3, 1:5, 1:5] = 0
    assert np.isnan(contacts(label, (TUMOUR, Target("other", (2,))))).all()
    assert count_specks(label, {"1": 3}) == 0
