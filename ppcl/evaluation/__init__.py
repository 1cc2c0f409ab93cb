"""A run against a data set's protocol -> rows of the result table; what is known of its pictures; the table."""

from .known_truth import Evaluation, prepare
from .protocols import BUNDLED, CURVES, checkpoint, cmc_bands, evaluate, from_header, load, roc, trained
