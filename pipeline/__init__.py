"""The frame (Faust, settings, command line) and the pure core (audio, models, scoring)."""
