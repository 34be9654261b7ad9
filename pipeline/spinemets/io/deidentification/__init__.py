"""Copies of studies that name nobody: PS3.15 Annex E's basic profile, with a secret key for pseudonyms."""

from spinemets.io.deidentification.listing import Deidentifier, deidentified_copy, recognised_words
from spinemets.io.deidentification.pseudonyms import Pseudonyms
from spinemets.io.deidentification.secret import load_secret

__all__ = ["Deidentifier", "Pseudonyms", "deidentified_copy", "load_secret", "recognised_words"]
