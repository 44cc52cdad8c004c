"""``sbldm_ablation``: nnU-Net with and without synthetic cases, on the same held-out cases, from a study file to a report.

``arms`` says what can be compared, ``file`` reads a study, ``planning`` lists its jobs, ``runner`` runs them, ``report``
writes the result.
"""
