"""Fixtures that several test files share, and what ``pytest -m quick`` runs."""

import pytest
import torch
from hypothesis import settings

pytest_plugins = ["nnunet_fixtures", "phantom_fixtures", "study_fixtures"]
"""Two small nnU-Net datasets, planned and preprocessed by nnU-Net; synthetic cases; a generator trained briefly; a study."""

settings.register_profile("unhurried", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=10_000)  # --hypothesis-profile=thorough
settings.load_profile("unhurried")
torch.set_num_threads(1)  # the networks of the tests are tiny


def pytest_collection_modifyitems(items):
    """Mark as quick what needs no fixture that is shared because it takes long, unless a test says otherwise itself."""
    for item in items:
        if not item.get_closest_marker("slow") and not any(map(_is_shared, _fixtures_of(item))):
            item.add_marker(pytest.mark.quick)


def _fixtures_of(item):
    return [definitions[-1] for definitions in item._fixtureinfo.name2fixturedefs.values()]


def _is_shared(fixture):
    return fixture.scope != "function" and not fixture.func.__module__.startswith("_pytest")
