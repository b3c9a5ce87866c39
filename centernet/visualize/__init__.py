"""Pictures: boxes, joints and 3D boxes on images, bird's-eye views, truth beside prediction, heatmaps, curves."""

from centernet.visualize.above import View, draw_birds_eye, view_of, views_from_above
from centernet.visualize.colors import class_color, contrast, text_color
from centernet.visualize.curves import history_figure, plot_history
from centernet.visualize.heatmaps import color_scale, overlay_heatmap
from centernet.visualize.objects import Look, draw_boxes, draw_boxes_3d, draw_joints, draw_objects, pictures_of
from centernet.visualize.panels import (
    draw_detections,
    draw_inputs,
    enlarge,
    nothing_above,
    panel,
    resized,
    save_image,
    truth_and_prediction,
)
from centernet.visualize.plots import pareto_front, plot_groups, plot_trade_off

__all__ = [
    "Look",
    "View",
    "class_color",
    "color_scale",
    "contrast",
    "draw_birds_eye",
    "draw_boxes",
    "draw_boxes_3d",
    "draw_detections",
    "draw_inputs",
    "draw_joints",
    "draw_objects",
    "enlarge",
    "history_figure",
    "nothing_above",
    "overlay_heatmap",
    "panel",
    "pareto_front",
    "pictures_of",
    "plot_groups",
    "plot_history",
    "plot_trade_off",
    "resized",
    "save_image",
    "text_color",
    "truth_and_prediction",
    "view_of",
    "views_from_above",
]
