"""Terms: properties of objects, predicted at their points. A task is a set of terms."""

from centernet.tasks.terms.base import About, HeatmapTerm, Peaks, Placed, Regression, Term
from centernet.tasks.terms.points import Points

__all__ = ["About", "HeatmapTerm", "Peaks", "Placed", "Points", "Regression", "Term"]
