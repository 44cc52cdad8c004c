"""The commands, one per file: they parse, call the room that does the work, and say where the result is.

Modules import the heavy rooms inside functions, so that ``-h`` answers at once.
"""
