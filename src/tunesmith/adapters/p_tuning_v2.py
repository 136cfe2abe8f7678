from __future__ import annotations

from ..models.anatomy import Site
from ..settings import Count, Whole
from .prefix_tuning import PrefixTuning


class PTuningV2(PrefixTuning):
    """Deep prompts: learned keys and values in every layer, directly trained, beside a newly made head.

    Source: Liu et al. 2021, arXiv:2110.07602, sec. 3.

    Settings:
        length: virtual tokens of each attention; the paper takes 20 or less to classify, about 100 to tag.
        hidden: width of the network that makes all keys and values; 0 trains them directly.
    """

    rate = 3.5e-2

    def __init__(self, site: Site, *, length: Count = 16, hidden: Whole = 0):
        super().__init__(site, length=length, hidden=hidden)
        if self.prefix is not None:
            self.prefix.data *= 0.02
