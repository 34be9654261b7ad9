"""How well results match a truth: overlap, levels, lesions, calibration, and the tables of it.

Pure functions of arrays and values. Stands beside the detection: no stage imports it.
"""
