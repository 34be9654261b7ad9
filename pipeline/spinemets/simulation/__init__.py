"""Labelled synthetic spines: anatomy, lesions, MR contrast and acquisition.

No stage of a detection imports this package; training, tests and the sample studies do.
"""
