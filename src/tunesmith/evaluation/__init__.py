"""Figures with intervals: what a model gets right, how sure that is, and what is worst. Knows arrays, not models.

``scores.score`` takes plain lists; ``intervals.measure`` and ``intervals.difference`` take `Answers`;
``report.build_report`` puts it all into one dictionary, which ``report`` and ``card`` show.
"""
