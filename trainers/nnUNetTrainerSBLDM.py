"""nnU-Net's trainer, drawing a set share of its training cases from synthetic ones; all it does is in the mixin."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_sbldm.mixing.mixin import SBLDMMixin


class nnUNetTrainerSBLDM(SBLDMMixin, nnUNetTrainer):  # noqa: N801  nnU-Net finds trainers by such names
    """Synthetic cases of the expanded dataset that is trained, else of the pool of this fold beside the dataset."""


class nnUNetTrainerSBLDMOnTheFly(nnUNetTrainerSBLDM):  # noqa: N801
    """Synthetic cases that a generator makes in a process of its own while nnU-Net trains."""

    sbldm_default_source = "on_the_fly"


class nnUNetTrainerSBLDMCopyPaste(nnUNetTrainerSBLDM):  # noqa: N801
    """The copy-paste baseline: the foreground of one training case pasted into another, after CarveMix."""

    sbldm_default_source = "copy_paste"
