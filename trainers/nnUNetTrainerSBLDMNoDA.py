"""nnU-Net's trainer without data augmentation, with our settings: the baseline of earlier work on synthetic images."""

from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA

from nnunet_sbldm.mixing.mixin import SBLDMMixin


class nnUNetTrainerSBLDMNoDA(SBLDMMixin, nnUNetTrainerNoDA):  # noqa: N801  nnU-Net finds trainers by such names
    """As ``nnUNetTrainerSBLDM``, without data augmentation; neither training nor prediction mirrors."""
