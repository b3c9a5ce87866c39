"""Tasks: what the maps mean. One file each."""

from centernet.tasks.base import Task, build_task, require_fields, task_names

__all__ = ["Task", "build_task", "require_fields", "task_names"]
