"""What the tests of edits share: a fast sampler, edits of the phantom."""

from dataclasses import replace

import numpy as np

from nnunet_sbldm.editing.choices import EditChoice
from nnunet_sbldm.editing.edit import edit
from nnunet_sbldm.editing.hosts import HostTransform
from nnunet_sbldm.editing.planner import EditPlanner
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.ldm.config import EDIT_SAMPLER

SAMPLER = replace(EDIT_SAMPLER, num_steps=3, max_corrections=0)


def ball(shape, centre, radius):
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    return ((grid - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0) < radius**2


def make(generator, dataset, kind, seed=0, transform=HostTransform(), host="phantom_001", asked=None, sampler=SAMPLER):  # noqa: B008
    request = Request(f"e{seed}", seed, asked or {})
    task = EditPlanner(generator, dataset).first_fitting(request, [EditChoice(kind, host, transform)])
    (drawn,) = edit(generator, [task], sampler)
    return drawn
