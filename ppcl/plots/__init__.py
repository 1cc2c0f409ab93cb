"""Arrays -> matplotlib figures: their look, charts of numbers, figures of pictures, curves that grow while training."""

from .cells import BOXES, board, judge, legend, outline, pixels, placed, show
from .charts import PALETTE, by_subset, curves, forest, gate_histogram, live_curves, method_curves, speed
from .figure_style import caption, note, notebook_picture, save, styled
from .pictures import expected_points, figure_one, grid, located, overview, partial_views, placements, ranking, sketch
