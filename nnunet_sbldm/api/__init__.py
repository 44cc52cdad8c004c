"""The Python API: class ``SBLDM`` and what its methods return. The commands call it; ``nnunet_sbldm`` names what is public.

``model`` class ``SBLDM`` · ``loaded`` its base: what a model is and how it is judged · ``settings`` what is asked, checked ·
``drawing`` from settings to samples · ``sample``, ``samples`` one case, several · ``sample_folder`` what ``sbldm_sample`` fills ·
``hosts`` what is edited · ``conditions`` what may be asked · ``torch_dataset`` for training loops · ``evaluation`` results as a
table · ``display`` figures on the screen · ``training``, ``expansion``, ``study`` what the commands of these names do.
"""
