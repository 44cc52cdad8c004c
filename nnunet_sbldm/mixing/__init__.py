"""``nnUNetTrainerSBLDM``: synthetic cases drawn into nnU-Net's training at a set ratio.

``settings`` says what can be set, ``mixin`` is the trainer, ``dataset`` does the mixing, ``sources`` finds the synthetic cases.
nnU-Net's background workers import ``dataset``, ``copy_paste`` and ``on_the_fly.ring``, which are light for that reason.
"""
