"""The methods paragraph."""



from nnunet_sbldm.ablation.methods import methods_paragraph


def test_the_methods_paragraph_says_what_was_done(study_of):
    text = methods_paragraph(study_of(arms=["real_only", "copy_paste", "sbldm_edit", {"oracle": {"num_cases": 6}}]), {}, 3)
    families = "to real_only, and as a family of its own over those of arms with a generator to copy_paste_25;"
    for said in ("that resample test cases;", "edits replace, add where nothing else is said",
                 "oracle (real cases alone, 6 cases)", families):
        assert said in text
    text = methods_paragraph(study_of(folds=[0, 1], seeds=[0, 1]), {}, 3)
    assert "that resample test cases, draws and repetitions;" in text
    assert "over all differences to real_only;" in text
    assert "edits" not in text
