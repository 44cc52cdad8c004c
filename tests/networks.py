"""What the tests of the networks share: one label's condition in physical units, and networks whose zeros are replaced."""

import numpy as np
import torch

from nnunet_sbldm.data.conditions import ConditionScaling, Target, feature_names


def wake(network):
    """Replace the zeros that blocks start with, so that every input matters."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


TARGETS = (Target("tumour", (1,)),)
NAMES = feature_names(TARGETS)


def plain_scaling():
    """Network scale = physical units, or their logarithm."""
    return ConditionScaling(tuple(NAMES), (0.0,) * len(NAMES), (1.0,) * len(NAMES))


def scaled(**features):
    """A condition [1, F] in network scale with the given physical features, the rest missing."""
    vector = np.array([features.get(n.replace("tumour/", "").replace("anatomy/", "anatomy_"), np.nan) for n in NAMES])
    return torch.from_numpy(plain_scaling().scaled(vector)).float()[None]
