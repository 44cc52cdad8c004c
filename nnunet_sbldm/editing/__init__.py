"""``-mode edit``: lesions added to, replaced in or removed from real training cases (hosts).

``planner`` decides what is edited where, ``edit`` makes it, ``gate`` judges it, ``maker`` ties the three together.
``inpainting`` diffuses the latents of a region, ``blending`` pastes what was decoded.
"""
