"""What an expansion of the phantom's fold 0 needs."""

import pytest
from expansion_commands import expand

from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.expansion.destinations import PoolDestination, views_of
from nnunet_sbldm.expansion.ledger import ExpansionJob
from nnunet_sbldm.generator.requests import ExpansionRequest, plan_requests


@pytest.fixture
def pool(phantom, phantom_dataset):
    return phantom_dataset.preprocessed / "sbldm" / phantom_dataset.config.data_identifier / "fold_0"


@pytest.fixture
def destination(phantom_dataset):
    return PoolDestination(views_of(phantom_dataset, ["3d_fullres"]), 0)


@pytest.fixture
def job(generator, phantom_dataset):
    return ExpansionJob(0, generator, tuple(plan_requests(generator.plan, 0, 8, ExpansionRequest(num_cases=6, seed=3), set())))


@pytest.fixture
def in_place(phantom, phantom_dataset, generator):
    """The dataset before it is expanded in place; hashes of its real cases are remembered already."""
    fold_cases(phantom_dataset, 0)
    expand("--pool", "-n", "1")
    return phantom_dataset
