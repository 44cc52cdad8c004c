"""The old place of the runner of studies' jobs, for studies and SLURM scripts that name it."""

from nnunet_sbldm.ablation.runner import main

if __name__ == "__main__":
    main()
