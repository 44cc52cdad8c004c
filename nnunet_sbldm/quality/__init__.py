"""What is measured of a case or of a set of cases, and the gate that refuses a synthetic case.

Pure measures: nothing here trains, samples or writes.
"""
