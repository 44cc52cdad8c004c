"""Fixtures that several test files share."""

import torch
from hypothesis import settings

pytest_plugins = ["nnunet_fixtures", "phantom_fixtures"]
"""Two small nnU-Net datasets, planned and preprocessed by nnU-Net itself; synthetic cases; a generator trained briefly."""

settings.register_profile("unhurried", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=10_000)  # --hypothesis-profile=thorough
settings.load_profile("unhurried")
torch.set_num_threads(1)  # the networks of the tests are tiny
