"""``sbldm_train``: from preprocessed training cases to a checkpoint, in two stages that resume where they stopped."""
