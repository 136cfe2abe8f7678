"""Generate, judge, train: one loop. What a model writes is judged, made into rows, and the model is tuned on them."""
