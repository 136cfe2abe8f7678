"""Figures with intervals: what a model gets right, how sure that is, and what is worst. Knows arrays, not models."""
