"""People and faces, drawn in the file layouts of the real data sets."""
