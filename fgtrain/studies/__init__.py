"""Studies: tables of papers, or one's own, as grids of runs and evaluations."""
