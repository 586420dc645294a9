"""Choosing a method's options on one slide without the truth."""

from __future__ import annotations

from recontour.tuning.criteria import Scores
from recontour.tuning.search import Choice, Plan, Tuning, tune
from recontour.tuning.slide import tune_slide
from recontour.tuning.subject import Subject

__all__ = ["Choice", "Plan", "Scores", "Subject", "Tuning", "tune", "tune_slide"]
