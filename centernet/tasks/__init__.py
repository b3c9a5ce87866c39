"""Tasks: the meaning of the output maps. One file each, composed of terms."""

from centernet.tasks.base import Task, build_task, task_names

__all__ = ["Task", "build_task", "task_names"]
