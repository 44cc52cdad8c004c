"""Fixtures that several test files share."""

pytest_plugins = ["nnunet_fixtures", "phantom_fixtures"]

import torch
from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
torch.set_num_threads(1)  # the networks of the tests are tiny
