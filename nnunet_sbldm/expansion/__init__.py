"""``sbldm_expand_dataset``: many cases, made in parts that resume, installed through one of three doors.

The doors are ``pool``, ``new_dataset`` and ``in_place``; ``production`` is the loop behind all of them.
"""
