"""Tasks: what the maps mean. One file each, made of terms."""

from centernet.tasks.base import Task, build_task, task_names

__all__ = ["Task", "build_task", "task_names"]
