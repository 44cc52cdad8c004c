"""Scripts that write datasets in nnU-Net's raw format."""
