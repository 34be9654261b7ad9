"""Public data sets and one's own, each read from the layout that it is published in.

A layout says which cases a folder holds (``find``) and turns one into a ``LabelledScan``
(``read``). Recipes name layouts by the keys of ``LAYOUTS``.
"""

from __future__ import annotations

from collections.abc import Mapping

from spinemets.training.datasets import bids, datalist, mrspineseg, own_masks, spider, verse
from spinemets.training.datasets.cases import Case, Layout

__all__ = ["LAYOUTS", "Case", "Layout"]

LAYOUTS: Mapping[str, Layout] = {
    "spider": spider.LAYOUT,
    "spine_generic": bids.LAYOUT,
    "whole_spine": bids.LAYOUT,
    "verse": verse.LAYOUT,
    "mrspineseg": mrspineseg.LAYOUT,
    "datalist": datalist.LAYOUT,
    "own_masks": own_masks.LAYOUT,
}
