"""What every room may need and none owns: files, locks, jobs, commands, devices, random streams, pictures, pages.

Nothing here knows what a case, a model or a study is.
"""
