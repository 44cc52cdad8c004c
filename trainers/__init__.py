"""Trainers that ``nnUNetv2_train -tr`` finds; nnU-Net imports each module of this folder by its bare name."""
