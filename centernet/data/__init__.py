"""Data: images and objects from files. Knows no task and no network."""
