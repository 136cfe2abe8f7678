"""Recipes compared on the same rows: every difference with its interval, every cost beside its score."""
