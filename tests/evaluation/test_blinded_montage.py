"""The blinded montage: a sheet and its key."""

import pytest
from editing_cases import SAMPLER

from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.editing.maker import edited_cases
from nnunet_sbldm.quality.gate import Verdict
from nnunet_sbldm.types import UserError


def test_the_blinded_montage_has_a_key_and_refuses_what_it_cannot_show(generator, phantom_dataset, tmp_path, monkeypatch):
    from nnunet_sbldm.editing import maker as module
    from nnunet_sbldm.evaluation.blinded_montage import write_blinded_montage

    settings = EditSettings((), ("remove",))
    cases = edited_cases(generator, phantom_dataset, settings)
    assert set(cases.real.patches) <= set(cases.settings.hosts)
    with pytest.raises(UserError, match="ask for fewer with -n"):
        write_blinded_montage(cases, phantom_dataset, 9, SAMPLER, tmp_path)
    monkeypatch.setattr(module.EditedCases, "judge", lambda *_: Verdict({}, ()))
    picture = write_blinded_montage(cases, phantom_dataset, 3, SAMPLER, tmp_path)
    key = read_json(tmp_path / "key.json")
    assert picture.is_file()
    assert sorted(v["kind"] for v in key.values()) == ["real"] * 3 + ["remove"] * 3
    assert [int(n) for n in key] == list(range(1, 7))
