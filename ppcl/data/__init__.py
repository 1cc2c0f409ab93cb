"""From files on a disk to batches: sets, layouts, the image bank, partial views, the stages' batches."""
