"""Numbers of several edits: shares and counts are means, everything else is a median, and what was not measured is left out."""

import pytest

from nnunet_sbldm.evaluation.edits import NUMBERS, OF_A_RUN, OF_AN_EDIT, summarise_edits


def row(accepted=True, **numbers):
    return {"accepted": accepted, "seconds": 2.0, **dict.fromkeys(OF_AN_EDIT), **numbers}


def test_every_number_of_the_report_is_summarised():
    assert list(summarise_edits([row()])) == ["num", *NUMBERS]
    assert list(NUMBERS) == [*OF_A_RUN, *OF_AN_EDIT]


def test_shares_and_counts_are_means_and_errors_are_medians():
    measured = ((0.1, True, 1), (0.2, True, 1), (9, False, 4))
    rows = [row(volume_error=v, seam_in_range=s, lesion_components=c) for v, s, c in measured]
    found = summarise_edits([*rows, row(accepted=False)])
    assert found["volume_error"] == pytest.approx(0.2)
    assert found["seam_in_range"] == pytest.approx(2 / 3)
    assert found["lesion_components"] == pytest.approx(2)
    assert found["threshold_dice"] is None
    assert (found["num"], found["acceptance_rate"], found["seconds_per_draw"]) == (4, 0.75, 2)
    assert found["seconds_per_accepted"] == pytest.approx(8 / 3)


def test_no_edits_have_no_numbers():
    assert summarise_edits([]) == {"num": 0, **dict.fromkeys(NUMBERS)}
