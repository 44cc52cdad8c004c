from nnunet_sbldm.api.expansion import expand as expand
from nnunet_sbldm.api.model import SBLDM as SBLDM
from nnunet_sbldm.api.study import run_study as run_study
from nnunet_sbldm.mixing.mixin import SBLDMMixin as SBLDMMixin
from nnunet_sbldm.types import Case as Case
from nnunet_sbldm.types import Geometry as Geometry
from nnunet_sbldm.types import UserError as UserError

__version__: str
