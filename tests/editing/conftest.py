"""What the tests of edits need of a generator."""

from dataclasses import replace

import pytest


@pytest.fixture
def narrow(generator):
    """A generator whose grid holds a part of every host alone."""
    grid = generator.plan.grid
    d, h, w = grid.shape
    return replace(generator, plan=replace(generator.plan, grid=replace(grid, shape=(d, h - 2 * grid.downsampling, w))))
