"""The query service: `results` as a SQLite view, read and fed over HTTP."""
