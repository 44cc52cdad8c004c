"""Cases as nnU-Net keeps them, and as the networks see them: folders, folds and leaks, formats, the grid, conditions, the phantom.

Whoever asks "which cases?", "in which fold?", "how large is the tumour?" asks here. ``folds`` holds the fold rule, ``conditions`` the
features that describe a label.
"""
