"""The old place of the sub-commands of studies, for studies and SLURM scripts that name it."""

from nnunet_sbldm.ablation.steps import main

if __name__ == "__main__":
    main()
