"""What an expansion of the phantom's fold 0 needs."""

import pytest

from nnunet_sbldm.expansion.destinations import PoolDestination, views_of
from nnunet_sbldm.expansion.ledger import Job
from nnunet_sbldm.generator.requests import ExpansionRequest, plan_requests


@pytest.fixture
def pool(phantom, phantom_dataset):
    return phantom_dataset.preprocessed / "sbldm" / phantom_dataset.config.data_identifier / "fold_0"


@pytest.fixture
def destination(phantom_dataset):
    return PoolDestination(views_of(phantom_dataset, ["3d_fullres"]), 0)


@pytest.fixture
def job(generator, phantom_dataset):
    return Job(0, generator, tuple(plan_requests(generator.plan, 0, 8, ExpansionRequest(num_cases=6, seed=3), set())))
