"""The sections of an evaluation: title, columns and explanation of each, in the order of the report."""

SECTIONS = {
    "reconstruction": {
        "title": "Reconstruction by the slice autoencoder",
        "columns": ("held-out cases", "training cases"),
        "note": "What is lost before any sampling. Held-out clearly below training means that the autoencoder has overfitted.",
    },
    "condition": {
        "title": "Condition: asked and obtained",
        "columns": ("synthetic", "real mask through the autoencoder"),
        "note": "Over the cases in which the label was asked for and is there. Centroids are fractions of the anatomy's bounding "
        "box; the error is the length of the difference. first draws: the same before the quality gate rejected any.",
    },
    "masks": {
        "title": "Masks: Wasserstein-1 distance to held-out cases, in the unit of the feature",
        "columns": ("synthetic", "training cases"),
        "note": "Equal numbers of cases on both sides, mean over random parts. contact: share of the voxels next to the first "
        "label that belong to the second. outline_roughness: log ratio of a mask's sphericity smoothed by a voxel, "
        "and as it is.",
    },
    "agreement": {
        "title": "Does the image show what the mask says?",
        "columns": ("synthetic", "held-out cases"),
        "note": "contrast: median inside the mask minus median in the shell around it, over the standard deviation in the "
        "anatomy. edge: gradient at the mask's surface over that in the anatomy. halo: share of the contrast that is left 1.5 "
        "to 3 voxels outside the mask, in channels in which it stands out.",
    },
    "coherence": {
        "title": "Coherence of neighbouring slices",
        "columns": ("synthetic", "held-out cases"),
        "note": "gradient_ratio: squared differences between slices over those within slices; above real means flicker, below "
        "means smearing. banding: jitter of the slices' mean intensity.",
    },
    "features": {
        "title": "Distribution of shape, intensity and texture features",
        "columns": ("synthetic to held-out", "training to held-out"),
        "note": "Features in standard deviations of real cases. Frechet distances of few cases are biased upward: compare with "
        "the floor, which has as many. p is that of a permutation test: small means that the sets differ.",
    },
    "latents": {
        "title": "Distribution of pooled latents",
        "columns": ("synthetic to held-out", "training to held-out"),
        "note": "The generator's own autoencoder sees: differences that it cannot encode do not show here.",
    },
    "nnunet": {
        "title": "Distribution of features of a trained nnU-Net",
        "columns": ("synthetic to held-out", "training to held-out"),
        "note": "Means of the deepest feature maps of its encoder. It was trained on the training cases, so the floor says how "
        "far held-out cases look to it from what it knows.",
    },
    "diversity": {
        "title": "Diversity",
        "columns": ("synthetic pairs", "held-out pairs"),
        "note": "Similarity of random pairs of cases. Well above real: the cases are too much alike. Well below real is "
        "not better.",
    },
    "memorisation": {
        "title": "Memorisation",
        "columns": ("synthetic", "real"),
        "note": "Median distance of synthetic cases to their nearest training case over that of held-out cases, mirrored cases "
        "included. Flagged: nearer to a training case than any held-out case is; the second column says how many of as many real "
        "cases would be. No case below the smallest distance of a held-out case goes unflagged.",
    },
}
