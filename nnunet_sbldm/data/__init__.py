"""Cases as nnU-Net keeps them and as networks see them: folders, folds, leaks, formats, grid, conditions, the phantom.

Whoever asks "which cases?", "in which fold?" or "how large is the tumour?" asks here. ``folds`` holds the fold rule,
``conditions`` the features that describe a label.
"""

