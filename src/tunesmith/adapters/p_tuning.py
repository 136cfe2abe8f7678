from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, Whole
from ._prompt import Prompt


class PTuning(Prompt):
    """Prompt tuning whose vectors come out of a small network, an LSTM or an MLP, which ties them to each other.

    Source: Liu et al. 2021, arXiv:2103.10385, sec. 2.2; the sizes of the networks are those of its code.

    Settings:
        length: number of virtual tokens.
        encoder: the network.
        hidden: its width; 0 takes the width of the model.
        layers_of_lstm: layers of the LSTM.
    """

    rate = 1.25e-2
    peft = "P_TUNING"

    def __init__(
        self,
        site: Site,
        *,
        length: Count = 20,
        encoder: Literal["mlp", "lstm"] = "mlp",
        hidden: Whole = 0,
        layers_of_lstm: Count = 2,
    ):
        super().__init__(site)
        width, hidden = site.outputs, hidden or site.outputs
        self.prompt = nn.Parameter(torch.randn(length, width))
        self.lstm, wide = None, width
        if encoder == "lstm":
            self.lstm = nn.LSTM(width, hidden, layers_of_lstm, bidirectional=True, batch_first=True)
            wide = 2 * hidden
        sizes = [(wide, wide)] if encoder == "lstm" else [(wide, hidden), (hidden, hidden)]
        inner = [m for size in sizes for m in (nn.Linear(*size), nn.ReLU())]
        self.mlp = nn.Sequential(*inner, nn.Linear(sizes[-1][1], width))

    def tokens(self, mask: Tensor, embeddings: Tensor) -> Tensor:
        return self.peft_prompt()

    def peft_prompt(self) -> Tensor:
        return self.mlp(self.prompt if self.lstm is None else self.lstm(self.prompt[None])[0][0])

    def to_peft(self) -> dict[str, Any]:
        return {"encoder_hidden_size": self.mlp[-1].in_features}
