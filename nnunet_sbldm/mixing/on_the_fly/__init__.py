"""Cases made beside the training, by a generator in a process of its own, handed over through a ring of files."""
