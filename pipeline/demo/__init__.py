"""`callstream demo`: everything on one machine, on real input."""
