"""Plain PyTorch at the limit: as many tokens as the rows have, none of them padding, and nothing but the step."""

from __future__ import annotations

import meter

watch = meter.Meter()
given = meter.job()

import torch  # noqa: E402
from torch import nn  # noqa: E402
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402

watch.imported()
watch.ready()


class LowRank(nn.Module):
    """A frozen linear layer with a low-rank update."""

    def __init__(self, base: nn.Linear, rank: int, scale: float):
        super().__init__()
        self.base, self.scale = base, scale
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.scale * (x @ self.down.T) @ self.up.T


class Bottleneck(nn.Module):
    """A frozen linear layer with a small network after it."""

    def __init__(self, base: nn.Linear, size: int):
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(base.out_features, size), nn.Linear(size, base.out_features)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        return y + self.up(torch.relu(self.down(y)))


def adapt(model: nn.Module) -> None:
    """Low-rank updates on every linear layer but the head, or a bottleneck after the last one of each sub-layer."""
    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or name.startswith(("lm_head", "classifier", "score")):
            continue
        owner = model.get_submodule(name.rpartition(".")[0])
        if given["technique"] == "lora":
            setattr(owner, name.rpartition(".")[2], LowRank(module, given["rank"], given["alpha"] / given["rank"]))
        elif name.endswith("output.dense"):
            setattr(owner, name.rpartition(".")[2], Bottleneck(module, given["rank"]))
    for name, parameter in model.named_parameters():
        if name.startswith(("classifier", "score", "pooler")):
            parameter.requires_grad_(True)


def main() -> None:
    """As many steps as the rows make, each on rows of their mean length."""
    torch.set_num_threads(given["threads"])
    torch.manual_seed(given["seed"])
    tokenizer = AutoTokenizer.from_pretrained(given["base"])
    texts = [
        r["text"] if "text" in r else tokenizer.apply_chat_template(r["messages"], tokenize=False)
        for r in meter.rows(given["train"])
    ]
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=given["length"])["input_ids"]]
    classify = given["kind"] == "classify"
    if classify:
        model = AutoModelForSequenceClassification.from_pretrained(
            given["base"], num_labels=len(given["labels"]), dtype=torch.float32
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(given["base"], dtype=torch.float32)
    if given["technique"] != "full":
        adapt(model)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=given["rate"], foreach=True)
    steps = -(-len(lengths) // given["batch"]) * given["epochs"]
    size = given["epochs"] * sum(lengths) // steps // given["batch"]
    ids = torch.randint(1000, 5000, (given["batch"], size))
    labels = torch.zeros(given["batch"], dtype=torch.long) if classify else ids
    watch.begin()
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=given["bf16"]):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        watch.step()
    watch.tell(score=None, tokens=steps * ids.numel(), dtype="bf16" if given["bf16"] else "fp32")


main()
