"""People and faces, drawn in the real sets' layouts."""
