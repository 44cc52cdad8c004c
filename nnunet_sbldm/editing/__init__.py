"""``-mode edit``: lesions added to, replaced in or removed from real training cases (hosts).

``planner`` decides what is edited where, ``edit`` makes it (``inpainting`` diffuses, ``blending`` pastes), ``gate`` judges it,
``maker`` ties the three together.
"""
