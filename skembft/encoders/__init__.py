"""Frozen encoders: by a local model, by an API, or by vectors that exist already."""

from skembft.encoders._api import APIEncoder
from skembft.encoders._precomputed import PrecomputedEncoder
from skembft.encoders._sentence import SentenceEncoder

__all__ = ["APIEncoder", "PrecomputedEncoder", "SentenceEncoder"]
