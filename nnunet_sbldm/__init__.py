"""Slice-based latent diffusion (SBLDM) as a synthetic-data plugin for stock nnU-Net v2."""

__version__ = "0.1.0"
