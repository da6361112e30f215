"""The event engine, the heart of Locum: a directory of numbered scripts, run in order for every event."""
