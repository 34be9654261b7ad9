"""Detection of metastases in spine MRI: levels, lesions, compartments, reports.

Research use only; not a medical device. Importing this package has no effect: heavy
libraries are imported where they are used.
"""

__version__ = "0.1.0"
