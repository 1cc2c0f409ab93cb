"""Arrays -> matplotlib figures: style, charts of numbers, figures of pictures, live curves."""

from . import live_curves
from .cells import BOXES, board, judge, legend, outline, pixels, placed, show
from .charts import PALETTE, by_subset, cmc, comparison, curves, gallery_cost, gate_histogram, roc, speed
from .figure_style import caption, enlarged, save, small_png, style
from .pictures import attention, figure_one, grid, located, overview, partial_views, placements, ranking, sketch
