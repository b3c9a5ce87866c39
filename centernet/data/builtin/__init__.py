"""Data that the package draws itself, in real file formats; ``drawing`` holds what the data sets share."""
