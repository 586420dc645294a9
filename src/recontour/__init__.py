"""recontour: a coarse outline on a whole-slide image in, a fine outline out."""

__version__ = "0.1.0"
