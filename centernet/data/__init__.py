"""Data: images and objects from files, independent of tasks and networks."""
