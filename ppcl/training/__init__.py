"""The three stages, how each lies on the disk, their schedules, and the choice of the fusion weight."""

from ..data.stage_batches import glrec_batch, heldout_queries, joint_batch, training_data
from .fusion_weight import choose_fusion
from .stages import STAGES, stage_jobs, train_backbone, train_glrec, train_joint, train_rows
