"""The engine: one loop for every technique, and what it stands on."""
