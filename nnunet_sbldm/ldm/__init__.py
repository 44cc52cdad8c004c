"""The method of the paper: slice autoencoder, denoiser of stacked latents, its conditioning, diffusion.

Plain networks and functions on tensors. ``diffusion`` has the notation key; ``config`` the sizes.
"""
