"""The window on a host: it gives back what it took."""

import numpy as np
import pytest

from nnunet_sbldm.editing.window import Window


@pytest.mark.parametrize(("host_shape", "centre"),
                         [((6, 9, 8), (3, 4, 4)), ((30, 9, 40), (2, 4, 39)), ((30, 30, 30), (15, 9, 20))])
def test_a_window_gives_back_what_it_took_and_holds_its_centre(host_shape, centre):
    array = np.arange(np.prod(host_shape)).reshape(host_shape) + 1
    window = Window.around((8, 12, 16), host_shape, centre)
    taken = window.take(array, 0)
    assert taken.shape == (8, 12, 16)
    assert array[centre] in taken
    back = window.put(taken, host_shape, 0)
    assert (back[back > 0] == array[back > 0]).all()
    assert (back > 0).sum() == np.prod(np.minimum(host_shape, (8, 12, 16)))
