"""One synthetic case: its arrays, where it comes from, what the quality gate says, and ways into other libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_sbldm.api.conditions import readable
from nnunet_sbldm.api.display import html_picture, png_of, show
from nnunet_sbldm.common.pictures import PLANES, Panel, montage_figure
from nnunet_sbldm.data.formats import affine_of, nibabel_image, sitk_image, write_case
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.quality.gate import Verdict
from nnunet_sbldm.types import Case, FloatArray, LabelArray, UserError

if TYPE_CHECKING:
    import nibabel
    import pandas
    import SimpleITK
    import torchio
    from matplotlib.figure import Figure

CASE_WIDTH_PX, EDIT_WIDTH_PX = 900, 1800


@dataclass(frozen=True)
class Scene:
    """What is needed to show a sample.

    Attributes:
        panels: pictures side by side, plan order: the case; of an edit its host, itself, and their difference.
        label_names: label value -> name.
        transpose_forward: axes of reader order in plan order, by which conditions are named.
    """

    panels: tuple[Panel, ...]
    label_names: Mapping[int, str]
    transpose_forward: tuple[int, int, int]


@dataclass(frozen=True, eq=False, repr=False)
class Sample:
    """A synthetic case, as :meth:`SBLDM.sample` and :meth:`SBLDM.edit` return it.

    Arrays are in reader order: what nnU-Net's readers return for the files that :meth:`save` writes.

    Attributes:
        case: image, label map, geometry and id.
        record: where it comes from, and all that is needed to make it again.
        verdict: of the quality gate: ``accepted``, ``reasons`` against the case (``rule`` and ``text``), and the ``scores``
            behind them.
        host: of an edit, the real case before it was edited (mirrored or bent, if it was); None for a whole case.
        region: of an edit, bool [Z, Y, X], the voxels that may differ from the host's; None for a whole case.

    Examples:
        >>> sample = SBLDM.load("hippocampus_t1").sample(volume_ml=1.5)[0]
        >>> sample.image.shape, sample.label.shape, sample.spacing_mm
        ((1, 47, 58, 43), (47, 58, 43), (1.0, 1.0, 1.0))
    """

    case: Case
    record: SyntheticRecord
    verdict: Verdict
    host: Case | None = None
    region: np.ndarray | None = None
    scene: Scene = field(default_factory=lambda: Scene((), {}, (0, 1, 2)))

    # --- what it is ---

    @property
    def case_id(self) -> str:
        """Identifier; also the name of its files."""
        return self.case.case_id

    @property
    def image(self) -> FloatArray:
        """float32 [C, Z, Y, X], raw intensities like those of the training files, exactly 0 outside the anatomy."""
        return self.case.image

    @property
    def label(self) -> LabelArray:
        """int16 [Z, Y, X], the label values of ``dataset.json``."""
        return self.case.label

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along (Z, Y, X)."""
        return self.case.geometry.spacing_mm

    @property
    def table(self) -> pandas.DataFrame:
        """What was asked and what was obtained, measured on the label map: columns ``asked``, ``obtained``, ``unit``.

        What the caller left open was drawn from the condition model, and counts as asked. One row per condition of
        :attr:`SBLDM.conditions`, indexed by label and name; NaN where there is none.
        """
        import pandas

        asked, obtained = self.record.condition_asked, self.record.condition_obtained
        named = {n: readable(n, self.scene.transpose_forward) for n in dict.fromkeys((*asked, *obtained))}
        labels = list(dict.fromkeys(n.label for n in named.values()))
        rows = sorted(named.items(), key=lambda item: (labels.index(item[1].label), item[1].rank))
        index = pandas.MultiIndex.from_tuples([(n.label, n.name) for _, n in rows], names=("label", "condition"))
        columns = {"asked": [asked.get(f) for f, _ in rows], "obtained": [obtained.get(f) for f, _ in rows]}
        table = pandas.DataFrame(columns, index=index, dtype=float)
        return table.assign(unit=[n.unit for _, n in rows])

    # --- other libraries ---

    def to_sitk(self) -> tuple[SimpleITK.Image, SimpleITK.Image]:
        """Image and label map as SimpleITK images with spacing, origin and direction; several channels become a vector image."""
        return sitk_image(self._channels_last(), self.case.geometry), sitk_image(self.label, self.case.geometry)

    def to_nibabel(self) -> tuple[nibabel.Nifti1Image, nibabel.Nifti1Image]:
        """Image [X, Y, Z], or [X, Y, Z, C] with several channels, and label map as NIfTI images with their affine."""
        return nibabel_image(self._channels_last(), self.case.geometry), nibabel_image(self.label, self.case.geometry)

    def to_torchio(self) -> torchio.Subject:
        """A TorchIO subject with ``image`` (a ``ScalarImage``) and ``label`` (a ``LabelMap``), tensors [C, X, Y, Z].

        Raises:
            UserError: TorchIO is not installed.
        """
        import torch

        try:
            import torchio
        except ImportError as e:
            raise UserError("to_torchio needs TorchIO, which is not installed: pip install torchio.") from e
        affine = affine_of(self.case.geometry)
        image, label = (torch.from_numpy(np.ascontiguousarray(a.transpose(0, 3, 2, 1))) for a in (self.image, self.label[None]))
        return torchio.Subject(
            image=torchio.ScalarImage(tensor=image, affine=affine),
            label=torchio.LabelMap(tensor=label, affine=affine),
            case_id=self.case_id,
        )

    def _channels_last(self) -> np.ndarray:
        """[Z, Y, X] of one channel, [Z, Y, X, C] of several."""
        return self.image[0] if len(self.image) == 1 else np.ascontiguousarray(self.image.transpose(1, 2, 3, 0))

    # --- files and pictures ---

    def save(self, folder: str | Path) -> list[Path]:
        """Write the case as nnU-Net names its files, with the record beside them.

        Args:
            folder: ``ID_0000.nii.gz``, ... (one per channel), ``ID.nii.gz`` (label map) and ``ID.json`` are written there.

        Returns:
            The files: images, label map, record.
        """
        folder = Path(folder)
        images = [folder / f"{self.case_id}_{c:04d}.nii.gz" for c in range(len(self.image))]
        label = folder / f"{self.case_id}.nii.gz"
        write_case(self.case, images, label)
        self.record.save(folder)
        return [*images, label, folder / f"{self.case_id}.json"]

    def figure(self) -> Figure:
        """Axial, coronal and sagittal plane through the label's largest extent, outlined; of an edit beside its host."""
        width_px = CASE_WIDTH_PX if self.host is None else EDIT_WIDTH_PX
        return montage_figure([("", self.scene.panels)], self.scene.label_names, PLANES, width_px)

    def show(self) -> None:
        """Show :meth:`figure`: below the cell of a notebook, else in a window."""
        show(self.figure())

    def __repr__(self) -> str:
        voxels, spacing = (" x ".join(f"{v:.4g}" for v in values) for values in (self.label.shape, self.spacing_mm))
        what = "Sample" if self.host is None else f"Edit ({self.record.edit['kind']} in {self.host.case_id})"
        return f"<{what} {self.case_id}: {voxels} voxels of {spacing} mm, {self._judged()}>"

    def _judged(self) -> str:
        if self.verdict.accepted:
            return "accepted by the quality gate"
        return f"rejected: {'; '.join(r.text for r in self.verdict.reasons)}"

    def _repr_png_(self) -> bytes:
        return png_of(self.figure())

    def _repr_html_(self) -> str:
        shown = self.table[self.table["asked"].notna() | self.table["obtained"].notna()]
        return f"{html_picture(self.figure())}<p>{escape(repr(self))}</p>{shown.to_html(float_format='%.3g')}"
