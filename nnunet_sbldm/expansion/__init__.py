"""``sbldm_expand_dataset``: many cases, made in parts that resume, written to one of three destinations.

The destinations are ``pool``, ``new_dataset`` and ``in_place``; ``production`` is the loop behind all of them.
"""
