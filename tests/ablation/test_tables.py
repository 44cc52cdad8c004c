"""Tables of comparisons as text."""



from nnunet_sbldm.ablation.tables import COLUMNS, NOT_MEASURED, comparison_table, numbers_table


def test_missing_numbers_are_dashes():
    row = {"num_cases": 5, "arm": "a", "num_runs": 1, "mean": {"mean": 0.5, "low": None, "high": None}, "difference": None,
           "p_holm": None, "verdict": None, "draws": None, "baseline": None}
    line = comparison_table([row], 0.95).markdown().splitlines()[2]
    assert line == f"| 5 | a | 1 | {NOT_MEASURED} | 0.500 |{f' {NOT_MEASURED} |' * 3}"


def test_numbers_of_a_comparison_are_columns_and_counts_stay_whole():
    known = {"mean": 0.5, "low": 0.4, "high": None}
    first = {"num_cases": 5, "arm": "a", "num_runs": 1, "num_folds": 1, "mean": known, "difference": None, "p": None,
             "p_holm": None, "verdict": None, "thirds": None, "draws": None, "baseline": None}
    second = {**first, "arm": "b", "difference": known, "thirds": [known] * 3, "num_better": 2, "num_worse": 0, "num_pairs": 3,
              "draws": {"asked": 0.25, "drawn": 0.2, "lowest": 0.1, "highest": 0.3, "num_runs": 1},
              "baseline": {"arm": "a", "difference": known, "p": 0.5, "p_holm": 1.0, "verdict": "better"}}
    table = numbers_table([first, second])
    assert list(table) == COLUMNS
    lines = table.to_csv(index=False).splitlines()
    assert lines[1] == "a,5,1,1,0.5,0.4," + "," * 29
    assert lines[2] == "b,5,1,1,0.5,0.4,,0.5,0.4,,,,,0.5,0.4,,0.5,0.4,,0.5,0.4,,0.25,0.2,0.1,0.3,a,0.5,0.4,,0.5,1.0,better,2,0,3"
