import json

import numpy as np
import pytest

from nnunet_sbldm.mixing.audit import DrawAudit, append_to_audit_file, read_audit_file, start_audit_file
from nnunet_sbldm.types import UserError


def test_the_audit_counts_an_epoch_and_starts_again():
    audit = DrawAudit(["case_1", "case_2"], ["case_10"])
    audit.count(np.array(["a_syn", "case_1"]))
    audit.count(np.array(["case_2", "case_1"]))
    record = audit.close_epoch(3, ratio=0.5)
    assert record == {"epoch": 3, "draws": 4, "synthetic_draws": 1, "share": 0.25, "asked": 0.5, "validation_draws": 0}
    assert audit.close_epoch(4, ratio=0.5)["draws"] == 0


def test_a_validation_case_drawn_for_training_is_an_error_and_ids_are_compared_whole():
    audit = DrawAudit([], ["case_10"])
    audit.count(np.array(["case_1"]))
    with pytest.raises(UserError, match=r"Validation case\(s\) case_10 were drawn for training"):
        audit.count(np.array(["case_1", "case_10"]))


def test_a_run_that_starts_or_continues_drops_the_records_of_epochs_it_trains_again(tmp_path):
    epochs = lambda: [json.loads(line)["epoch"] for line in (tmp_path / "sbldm_audit.jsonl").read_text().splitlines()]  # noqa: E731
    start_audit_file(tmp_path, 0)
    for epoch in range(5):
        append_to_audit_file(tmp_path, {"epoch": epoch})
    start_audit_file(tmp_path, 3)
    assert epochs() == [0, 1, 2]
    with open(tmp_path / "sbldm_audit.jsonl", "a") as f:
        f.write('{"epoch": 3, "dr')  # killed while writing
    assert [r["epoch"] for r in read_audit_file(tmp_path)] == [0, 1, 2]
    assert read_audit_file(tmp_path / "none") == []
    start_audit_file(tmp_path, 4)
    assert epochs() == [0, 1, 2]
    start_audit_file(tmp_path, 0)
    assert epochs() == []
