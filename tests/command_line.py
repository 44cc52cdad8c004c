"""Commands run in this process, and what they say when they refuse."""

import pytest


def refused(capsys, entry, *arguments):
    """The sentence with which a command refuses its arguments, on standard error, with exit code 2 and no traceback."""
    with pytest.raises(SystemExit) as e:
        entry([str(a) for a in arguments])
    err = capsys.readouterr().err
    assert e.value.code == 2, err
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]
