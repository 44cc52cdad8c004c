"""The old place of :class:`nnunet_sbldm.mixing.mixin.SBLDMMixin`, for trainers that import it from here."""

from nnunet_sbldm.mixing.mixin import SBLDMMixin as SBLDMMixin
