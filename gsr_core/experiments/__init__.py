"""Studies and sweeps: many runs that answer one question."""
