"""The types that a part's settings may have. A signature that uses them is the schema for YAML, CLI and docs.

``rank: Count = 8`` reads well, and is checked before any weight is loaded.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Lt

Count = Annotated[int, Ge(1)]
"""A whole number of at least 1."""

Whole = Annotated[int, Ge(0)]
"""A whole number of at least 0."""

Positive = Annotated[float, Gt(0)]
"""A number above 0."""

NonNegative = Annotated[float, Ge(0)]
"""A number of at least 0."""

Share = Annotated[float, Interval(ge=0, le=1)]
"""A number from 0 to 1."""

Decay = Annotated[float, Ge(0), Lt(1)]
"""A number from 0 to below 1, such as a momentum or a drop-out rate."""

Roles = list[str]
"""Roles of sites, such as ``attention.query``; ``attention.*`` takes all of a family, ``linear`` every linear layer."""

Layers = list[int] | Literal["all"]
"""Indices of layers, from 0; negative ones count from the top."""

Activation = Literal["relu", "gelu", "silu", "tanh", "identity"]
"""The nonlinearity of a small network."""

Start = Literal["vocabulary", "random"]
"""Where virtual tokens begin: embeddings of frequent words, or noise."""
