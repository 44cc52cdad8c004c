"""Numbers of several edits: shares and counts are means, everything else is a median, and what was not measured is left out."""


import numpy as np
import pytest

from nnunet_sbldm.cli.evaluate import evaluate_entry
from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.evaluation.edit_measures import lesion_structure
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


@pytest.mark.parametrize("option", [["-targets", "t.json"], ["-nnunet", "folder"], ["--no_gate"]])
def test_what_is_for_whole_cases_is_refused_where_edits_are_evaluated(generator, capsys, option):
    with pytest.raises(SystemExit) as e:
        evaluate_entry(["-m", str(generator.folder), "-device", "cpu", "-mode", "edit", *option])
    assert e.value.code == 2
    assert f"{option[0]} is for whole cases; leave it out with -mode edit." in capsys.readouterr().err


def test_sbldm_evaluate_measures_edits(generator, tmp_path):
    out = tmp_path / "evaluation"
    evaluate_entry(["-m", str(generator.folder), "-o", str(out), "-n", "3", "-steps", "2", "-device", "cpu", "-mode", "edit"])
    result = read_json(out / "edit_evaluation.json")
    assert result["all"]["num"] == 3
    assert result["all"]["unchanged_outside"] == 1.0
    assert {"channel_0/seam", "channel_0/lesion_halo"} <= set(result["real_tissue"])
    assert abs(result["all"]["host_lesion_halo"]) < 0.3  # the phantom's lesions end where their masks do
    assert 0 < result["all"]["host_lesion_ssim"] < 1
    assert result["all"]["host_lesion_gradient"] > 0
    assert result["all"]["host_lesion_components"] == 1  # a phantom has one tumour
    assert "data:image/png;base64," in (out / "edit_evaluation.html").read_text()


def test_a_lesion_that_was_removed_has_no_structure():
    assert set(lesion_structure(np.zeros((1, 4, 5, 5)), np.zeros((4, 5, 5), bool)).values()) == {None}
