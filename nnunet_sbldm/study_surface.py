"""The old place of the surface distances of studies, for studies and SLURM scripts that name it."""

from nnunet_sbldm.ablation.surface_distances import main

if __name__ == "__main__":
    main()
