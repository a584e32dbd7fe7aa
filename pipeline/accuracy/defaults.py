"""What `evaluate` and `calibrate` do when nothing else is said; apart, since the command line reads it at every start."""

RESAMPLES = 200  # of the bootstrap
LIMIT = 400  # recordings of each corpus
SEED = 20_261_125
