"""Names for the vertebrae of a segmentation, each with a probability.

``measures`` looks at the label map, ``numbering`` holds what is known of human spines and
finds the names, ``naming`` joins the two and speaks to the reader.
"""

from spinemets.levels.naming import label_levels, level_cautions

__all__ = ["label_levels", "level_cautions"]
