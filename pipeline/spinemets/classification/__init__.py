"""Where a lesion lies: compartment, vertebral levels, region, and what a reader must check.

``envelopes`` models the dura and the cord's surface where a lesion hides them, ``compartment``
turns distances to them into probabilities, ``place`` finds the levels, ``finding`` joins them.
"""

from spinemets.classification.finding import classify

__all__ = ["classify"]
