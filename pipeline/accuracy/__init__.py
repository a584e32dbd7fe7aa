"""How good the answers are: `callstream evaluate` and `callstream calibrate` on a user's own recordings."""
