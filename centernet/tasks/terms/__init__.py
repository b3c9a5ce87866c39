"""Terms: what can be said about an object at its point. A task is a choice of them."""

from centernet.tasks.terms.base import About, HeatmapTerm, Peaks, Placed, Regression, Term
from centernet.tasks.terms.points import Points

__all__ = ["About", "HeatmapTerm", "Peaks", "Placed", "Points", "Regression", "Term"]
