"""Features of the cells of a slide: read once, embedded once, kept."""

from recontour.embedding.blocks import (
    Block,
    block_computer,
    overlap_weights,
    plan_blocks,
    views_of,
)
from recontour.embedding.effort import Effort, in_words
from recontour.embedding.embed import Features, cache_key, embed_patches, estimate

__all__ = [
    "Block",
    "Effort",
    "Features",
    "block_computer",
    "cache_key",
    "embed_patches",
    "estimate",
    "in_words",
    "overlap_weights",
    "plan_blocks",
    "views_of",
]
