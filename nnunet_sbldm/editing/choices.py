"""What can be edited, and what is drawn for every request: kind, host, mirroring, deformation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_sbldm.common.files import sha256_of_json
from nnunet_sbldm.common.seeds import Stream, derived_seed, rng_of
from nnunet_sbldm.data.conditions import FEATURES
from nnunet_sbldm.editing.hosts import HostTransform
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.types import UserError

KINDS = ("replace", "add", "remove")
MAX_DEFORMATION_MM = 20.0


@dataclass(frozen=True)
class EditSettings:
    """How hosts are edited.

    Attributes:
        hosts: real training cases that may be hosts.
        kinds: what may be done, each case draws one: ``replace``, ``add`` or ``remove`` a lesion.
        mirror: mirror half of the hosts left to right.
        deformation_mm: largest displacement of a smooth deformation of every host, 0 for none.
    """

    hosts: tuple[str, ...]
    kinds: tuple[str, ...] = ("replace", "add")
    mirror: bool = True
    deformation_mm: float = 0.0

    def __post_init__(self) -> None:
        unknown = [k for k in self.kinds if k not in KINDS]
        if unknown or not self.kinds:
            raise UserError(f"-kind takes {', '.join(KINDS)}; got {', '.join(unknown) or 'none'}.")
        if not 0 <= self.deformation_mm <= MAX_DEFORMATION_MM:
            raise UserError(f"-deformation takes 0 to {MAX_DEFORMATION_MM:g} mm; got {self.deformation_mm:g}.")

    def signature(self) -> dict[str, Any]:
        """What decides the edits, as JSON."""
        hosts = sha256_of_json(sorted(self.hosts))
        return {"kinds": list(self.kinds), "mirror": self.mirror, "deformation_mm": self.deformation_mm, "hosts": hosts}


@dataclass(frozen=True)
class EditChoice:
    """What is done to which host, as the record of an edited case says.

    Attributes:
        kind: one of ``KINDS``.
        host: id of the real case.
        transform: what is done to the host first.
        min_depth_mm: lesions lie at least so deep below the anatomy's surface.
        tissue: they lie in tissue of these normalised intensities, a range per channel; empty for any.
    """

    kind: str
    host: str
    transform: HostTransform
    min_depth_mm: float = 0.0
    tissue: tuple[tuple[float, float], ...] = ()

    @staticmethod
    def from_record(edit: Mapping[str, Any]) -> EditChoice:
        """The choice that a record stores."""
        tissue = tuple((low, high) for low, high in edit.get("tissue", ()))
        return EditChoice(edit["kind"], edit["host"], HostTransform(**edit["transform"]), edit["min_depth_mm"], tissue)


def edit_choices(
    settings: EditSettings,
    request: Request,
    with_lesion: Collection[str],
    min_depth_mm: float = 0.0,
    tissue: tuple[tuple[float, float], ...] = (),
) -> list[EditChoice]:
    """Kinds and hosts of a request, in the order in which they are tried; its seed decides.

    Another kind is tried only where no host has room for the first.

    Args:
        settings: kinds and hosts.
        request: what is asked.
        with_lesion: the hosts that have a lesion to replace or remove.
        min_depth_mm: lesions lie at least so deep.
        tissue: and in tissue of these intensities.

    Raises:
        UserError: no host has a lesion to replace or remove.
    """
    rng = rng_of(request.noise_seed, Stream.HOST)
    kinds = [settings.kinds[i] for i in rng.permutation(len(settings.kinds))]
    presences = [v for name, v in request.asked.items() if name.endswith(f"/{FEATURES[0]}")]
    if presences and not any(presences):  # absence is asked
        kinds = ["remove"]
    mirrored = settings.mirror and bool(rng.integers(2))
    seed = derived_seed(request.noise_seed, Stream.DEFORMATION) if settings.deformation_mm else 0
    transform = HostTransform(mirrored, settings.deformation_mm, seed)
    order = [settings.hosts[i] for i in rng.permutation(len(settings.hosts))]
    pairs = [(kind, host) for kind in kinds for host in order if kind == "add" or host in with_lesion]
    if not pairs:
        raise UserError(f"None of the {len(order)} possible host(s) has a lesion to {' or '.join(kinds)}; use -kind add.")
    return [EditChoice(kind, host, transform, min_depth_mm, tissue) for kind, host in pairs]
