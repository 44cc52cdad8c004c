"""Crops that the autoencoder is trained on."""

import numpy as np
import torch

from nnunet_sbldm.data.slices import TrainingArrays


def arrays(folder, shape=(2, 40, 30)):
    """One case of two slices, numbered pixel by pixel: anatomy in the middle of both, a voxel of foreground in the second."""
    made = TrainingArrays.create(folder, 1, 2, shape)
    classes = np.zeros(shape, np.uint8)
    classes[:, 10:30, 5:25] = 1
    classes[1, 12, 7] = 2
    number = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 4096
    made.put(0, np.stack([number, -number]), classes)
    return made, classes


def test_crops_are_parts_of_their_slices_and_hold_anatomy(tmp_path):
    made, classes = arrays(tmp_path)
    image, cropped, position = made.crops(np.array([0, 1] * 50), 16, np.random.default_rng(0))
    assert image.shape == (100, 2, 16, 16)
    assert position.tolist() == [0.0, 1.0] * 50
    whole = torch.from_numpy(made.images[0].astype(np.float32))
    starts = set()
    for n, (pixels, labels) in enumerate(zip(image, cropped, strict=True)):
        assert (labels > 0).any()
        found = [
            (y, x) for y in range(25) for x in range(15)
            if torch.equal(whole[:, n % 2, y : y + 16, x : x + 16], pixels)
            and np.array_equal(classes[n % 2, y : y + 16, x : x + 16], labels)
        ]
        assert found
        starts |= set(found)
    assert len(starts) > 40
    with_foreground = (cropped[1::2] == 2).flatten(1).any(dim=1).float().mean()
    assert with_foreground >= 0.5


def test_small_slices_stay_whole_and_empty_ones_are_cropped_too(tmp_path):
    made, classes = arrays(tmp_path)
    image, cropped, _ = made.crops(np.array([1]), 35, np.random.default_rng(0))
    assert image.shape == (1, 2, 35, 30)
    whole, _, _ = made.crops(np.array([1]), 64, np.random.default_rng(0))
    assert torch.equal(whole[0], torch.from_numpy(made.images[0, :, 1].astype(np.float32)))
    made.classes[:] = 0
    assert made.crops(np.array([0]), 16, np.random.default_rng(0))[1].max() == 0
