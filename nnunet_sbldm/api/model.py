"""Class ``SBLDM``: a trained model, and the cases that it makes.

Four of its methods have more than six arguments: each keyword is one thing to ask for, and a notebook completes them by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_sbldm.api.drawing import Drawer
from nnunet_sbldm.api.hosts import Image, dataset_of, image_as_host
from nnunet_sbldm.api.loaded import LoadedModel
from nnunet_sbldm.api.sample import Sample
from nnunet_sbldm.api.samples import Samples
from nnunet_sbldm.api.settings import SampleSettings, described
from nnunet_sbldm.common.devices import chosen_device
from nnunet_sbldm.data.paths import DEFAULT_PLANS, Fold
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.editing.maker import EditedCases, edited_cases
from nnunet_sbldm.generator.sampling import check_asked
from nnunet_sbldm.ldm.config import EDIT_SAMPLER, SamplerConfig
from nnunet_sbldm.types import SBLDMWarning, UserError

if TYPE_CHECKING:
    from nnunet_sbldm.api.torch_dataset import SampleDataset


class SBLDM(LoadedModel):
    """A trained slice-based latent diffusion model.

    It is loaded with ``SBLDM.load``, or trained with :meth:`train`.

    Attributes:
        trained: the networks, the plan, and the list of training cases.
        name: its name, or that of its folder.
        source: its folder, or the file that it was loaded from.

    Examples:
        >>> from nnunet_sbldm import SBLDM
        >>> model = SBLDM.load("glioma_flair")
        >>> sample = model.sample(volume_ml=30, seed=1)[0]
        >>> sample.show()
    """

    # more than six arguments: what sbldm_train can be told, by keyword
    @staticmethod
    def train(
        dataset: int | str,
        fold: Fold,
        *,
        preset: str | None = None,
        length: float | None = None,
        init: str | Path | None = None,
        mapping: Mapping[str, str] | None = None,
        cases: Sequence[str] | None = None,
        groups: str | Path | None = None,
        plans: str = DEFAULT_PLANS,
        seed: int = 0,
        device: str | None = None,
    ) -> SBLDM:
        """Train a model on the training cases of one fold; what ``sbldm_train`` does. An interrupted training goes on.

        Args:
            dataset: id or name of a planned and preprocessed dataset.
            fold: a number, or ``"all"``.
            preset: size of the networks, ``tiny``, ``small`` or ``base``; None takes ``small``, or that of ``init``.
            length: times the steps of the preset, or of the initial model; None takes 1, or 0.25 with ``init``.
            init: folder or name of a model to start from.
            mapping: own channel or label -> that of the initial model, where their names differ.
            cases: ids of training cases of the fold; None takes all of them.
            groups: JSON file, case id -> patient: scans of one patient never straddle; it is remembered.
            plans: plans identifier.
            seed: seed of initialisation and training order.
            device: ``cpu``, ``cuda`` or ``mps``; None takes a GPU if there is one.

        Returns:
            The trained model; it lies in ``nnUNet_results``.

        Raises:
            UserError: unknown dataset, fold, cases or preset; bad cases; a leak; or another model in the way.

        Examples:
            >>> model = SBLDM.train(dataset=505, fold=0, preset="small", init="glioma_flair")
        """
        from nnunet_sbldm.api.training import TrainingSettings, train_model

        settings = TrainingSettings(dataset, fold, plans, preset, length, init, mapping or {}, cases, groups, seed)
        chosen = chosen_device(device)
        return SBLDM.load(train_model(settings, chosen)[0], chosen)

    # --- drawing ---

    # more than six arguments: what can be asked of a case, by keyword
    def sample(
        self,
        n: int = 1,
        *,
        label: int | str | None = None,
        presence: bool | None = None,
        volume_ml: float | tuple[float, float] | None = None,
        centroid: Sequence[float] | None = None,
        extent_mm: Sequence[float] | None = None,
        sphericity: float | None = None,
        num_components: int | None = None,
        diversity: float = 1.0,
        seed: int = 0,
        gate: bool = False,
        steps: int = SamplerConfig.num_steps,
        guidance: float = SamplerConfig.guidance_scale,
    ) -> Samples:
        """Make synthetic cases; what ``sbldm_sample`` does. Equal seeds give equal cases.

        What is left out is drawn as the training cases have it; :attr:`conditions` lists what may be asked. :meth:`draw` takes
        more settings, and keeps nothing in memory.

        Args:
            n: number of cases; their seeds are ``seed``, ``seed + 1``, ...
            label: name or number of the label that the next six describe; None is the first.
            presence: whether that label is there.
            volume_ml: its volume in ml, or the range from which each case draws its own.
            centroid: its centre along x, y, z of the file, as fractions of the imaged anatomy.
            extent_mm: its extent along x, y, z of the file, in mm.
            sphericity: surface of the ball of equal volume over its surface, 0 to 1.
            num_components: number of its connected components.
            diversity: width of the condition model's kernels, 1 as fitted; it decides what is left out.
            seed: seed of the first case.
            gate: draw again what the quality gate rejects, and leave out what it gives up; otherwise its verdict is only noted.
            steps: denoising steps.
            guidance: classifier-free guidance scale, 1 is off.

        Raises:
            UserError: a label that the model does not have, or a value out of its range.
            UnfitGeneratorError: the gate gives up more than half of ten cases or more.

        Examples:
            >>> samples = SBLDM.load("glioma_flair").sample(4, volume_ml=30, centroid=(0.3, 0.5, 0.6))
            >>> samples[0].save("out")
        """
        entry = {"label": label, "presence": presence, "volume_ml": volume_ml, "centroid": centroid,
                 "extent_mm": extent_mm, "sphericity": sphericity, "num_components": num_components}
        sampler = self.sampler(SamplerConfig(num_steps=steps, guidance_scale=guidance))
        return Samples(self.draw(SampleSettings(n, described(entry), seed, diversity, sampler, gate)))

    # more than six arguments: what can be asked of a case, by keyword
    def dataset(
        self,
        n: int | None = None,
        *,
        label: int | str | None = None,
        volume_ml: float | tuple[float, float] | None = None,
        centroid: Sequence[float] | None = None,
        extent_mm: Sequence[float] | None = None,
        seed: int = 0,
        gate: bool = False,
        steps: int = SamplerConfig.num_steps,
        guidance: float = SamplerConfig.guidance_scale,
    ) -> SampleDataset:
        """Synthetic cases as a ``torch.utils.data.IterableDataset`` for a training loop, drawn while they are needed.

        Args:
            n: number of cases; None never ends.
            label: as for :meth:`sample`, and so are all others.
            volume_ml: likewise.
            centroid: likewise.
            extent_mm: likewise.
            seed: likewise.
            gate: likewise.
            steps: likewise.
            guidance: likewise.

        Returns:
            Dictionaries with ``image`` [C, D, H, W] and ``label`` [1, D, H, W], see :class:`SampleDataset`.

        Raises:
            UserError: a label that the model does not have, or a value out of its range.
        """
        from nnunet_sbldm.api.torch_dataset import SampleDataset

        entry = {"label": label, "volume_ml": volume_ml, "centroid": centroid, "extent_mm": extent_mm}
        sampler = self.sampler(SamplerConfig(num_steps=steps, guidance_scale=guidance))
        settings = SampleSettings(1 if n is None else n, described(entry), seed, sampler=sampler, use_gate=gate)
        self._warn_of_range(settings, stacklevel=3)
        return SampleDataset(Drawer(self.trained, settings, source=self.source, compares=False), n)

    # more than six arguments: what can be asked of a case and of its host, by keyword
    def edit(
        self,
        n: int = 1,
        *,
        dataset: int | str | None = None,
        hosts: Sequence[str] = (),
        image: Image | None = None,
        mask: np.ndarray | str | Path | None = None,
        spacing_mm: Sequence[float] | None = None,
        kinds: Sequence[str] | None = None,
        label: int | str | None = None,
        volume_ml: float | tuple[float, float] | None = None,
        centroid: Sequence[float] | None = None,
        extent_mm: Sequence[float] | None = None,
        seed: int = 0,
        gate: bool = False,
        steps: int = EDIT_SAMPLER.num_steps,
        guidance: float = EDIT_SAMPLER.guidance_scale,
    ) -> Samples:
        """Put lesions into real cases, replace or remove them; what ``sbldm_sample -mode edit`` does.

        Outside :attr:`Sample.region` every voxel stays that of :attr:`Sample.host`, bit for bit.

        Args:
            n: number of edits; their seeds are ``seed``, ``seed + 1``, ...
            dataset: id or name of the dataset whose training cases are hosts; None is the one that the model was trained on.
            hosts: ids of the cases that may be hosts; empty takes all of the model's fold. Half are mirrored left to right.
            image: a host given by hand instead: an array [Z, Y, X] or [C, Z, Y, X], exactly 0 outside the anatomy and turned as
                the training files are; a file, or one per channel; or a :class:`Case`. It is not mirrored.
            mask: its label map, an array [Z, Y, X] or a file; None if it is healthy.
            spacing_mm: its voxel size along (Z, Y, X), if it is an array.
            kinds: what may be done; each edit draws one of ``replace``, ``add``, ``remove``. None is ``replace`` and ``add``, and
                ``add`` alone for a healthy image.
            label: as for :meth:`sample`, and so are all others.
            volume_ml: likewise.
            centroid: likewise.
            extent_mm: likewise.
            seed: likewise.
            gate: likewise.
            steps: likewise.
            guidance: likewise.

        Raises:
            UserError: hosts of other channels, labels or orientation than the model's, a leak, or a bad value.
            NoRoomError: no host has room for what is asked.

        Examples:
            >>> edits = model.edit(4, dataset=505, kinds=("add",), volume_ml=5)
            >>> edits = model.edit(image="scan.nii.gz", mask="lesions.nii.gz", kinds=("remove",))
        """
        entry = {"label": label, "volume_ml": volume_ml, "centroid": centroid, "extent_mm": extent_mm}
        sampler = self.sampler(replace(EDIT_SAMPLER, num_steps=steps, guidance_scale=guidance), EDIT_SAMPLER.batch_size)
        settings = SampleSettings(n, described(entry), seed, sampler=sampler, use_gate=gate)
        if image is not None:
            if dataset is not None or hosts:
                raise UserError("A host is given as image, or by dataset and hosts: leave one of them out.")
            return Samples(self.draw(settings, image_as_host(self.trained, image, mask, spacing_mm, kinds)))
        if mask is not None or spacing_mm is not None:
            raise UserError("mask and spacing_mm belong to image, which is missing.")
        return Samples(self.draw(settings, self.hosts(EditSettings(tuple(hosts), tuple(kinds or EditSettings.kinds)), dataset)))

    def draw(self, settings: SampleSettings, hosts: EditedCases | None = None) -> Iterator[Sample]:
        """Samples one by one, while they are made; none is kept. :meth:`sample` and :meth:`edit` are this with keywords.

        Args:
            settings: what to draw, and how.
            hosts: what to edit, see :meth:`hosts`; None makes whole cases.
        """
        return self.drawer(settings, hosts, stacklevel=5).draw(range(settings.num_cases))

    def drawer(self, settings: SampleSettings, hosts: EditedCases | None = None, stacklevel: int = 4) -> Drawer:
        """What draws samples by their numbers; it warns of values outside the training range, in the caller's name."""
        self._warn_of_range(settings, stacklevel)
        return Drawer(self.trained, settings, hosts, self.source)

    def hosts(self, editing: EditSettings, dataset: int | str | None = None, plans: str | None = None) -> EditedCases:
        """Training cases of the model's fold as hosts, measured.

        Args:
            editing: which cases, and what is done to them.
            dataset: id or name of their dataset; None is the one that the model was trained on.
            plans: plans identifier; None is the model's.

        Raises:
            UserError: other channels, labels or orientation than the model's, no host, or a leak.
        """
        return edited_cases(self.trained, dataset_of(self.trained, dataset, plans), editing)

    def _warn_of_range(self, settings: SampleSettings, stacklevel: int = 4) -> None:
        """Warn of values outside the training range, in the name of the caller so many calls up."""
        asked = settings.request(self.trained.plan, 0).asked
        for warning in check_asked(self.trained, asked):
            warnings.warn(warning, SBLDMWarning, stacklevel=stacklevel)
