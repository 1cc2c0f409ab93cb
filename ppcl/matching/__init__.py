"""Features -> query x gallery distances: described pictures, the global search, part to part, features on the disk."""

from .features import STRIPES, Features, describe, gram_matrix
from .global_search import BLOCK, global_distances, nearest, shortlisted
from .part_to_part import fuse, fusion_weight, in_picture, match, match_pairs, match_within, region_distances, search
from .reranking import rerank
