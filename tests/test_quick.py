"""What is done otherwise than PyTorch does it on a CPU is the same function."""

from __future__ import annotations

import copy
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunesmith.models import entrywise, quick
from tunesmith.models.bases import load, resolve

Shape = tuple[int, int, int, int, int]
SHAPES: list[Shape] = [(3, 4, 4, 7, 16), (2, 6, 2, 20, 8)]


def drawn(shape: Shape, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys and values as a model gives them: turned, and no copy."""
    rows, heads, groups, length, size = shape
    torch.manual_seed(0)
    return [
        torch.randn(rows, length, n, size).to(dtype).transpose(1, 2).requires_grad_() for n in (heads, groups, groups)
    ]


def masks(shape: Shape) -> dict[str, Tensor | None]:
    rows, _, _, length, _ = shape
    seen = torch.ones(rows, 1, length, length, dtype=torch.bool).tril()
    seen[0, :, :, -2:] = False
    added = torch.zeros(rows, 1, length, length).masked_fill(~seen, -1e30)
    return {"none": None, "bool": seen, "added": added}


def grown(output: Tensor, tensors: list[Tensor], towards: Tensor) -> list[Tensor]:
    return [output.detach().float(), *(g.float() for g in torch.autograd.grad(output, tensors, towards))]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mask", ["none", "bool", "added"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_attention_and_its_gradient_are_as_exact_as_pytorchs(shape: Shape, mask: str, precision: torch.dtype) -> None:
    tensors, given = drawn(shape, precision), masks(shape)[mask]
    exact = [t.detach().float().requires_grad_() for t in tensors]
    repeated = shape[1] // shape[2]
    towards = torch.randn(shape[0], shape[3], shape[1], shape[4])

    def pytorchs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (t.repeat_interleave(repeated, 1) for t in (k, v))
        bias = given if given is None or given.dtype == torch.bool else given.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None).transpose(1, 2)

    wanted = grown(pytorchs(*exact), exact, towards)
    theirs = grown(pytorchs(*tensors), tensors, towards.to(precision))
    ours = quick.attention(*tensors, given, causal=True, scale=None, dropout=0.0)
    least = 0.005 if precision == torch.bfloat16 else 1e-6
    for exactly, fused, found in zip(wanted, theirs, grown(ours, tensors, towards.to(precision)), strict=True):
        off, allowed = ((t - exactly).norm() / exactly.norm() for t in (found, fused))
        assert off < max(least, 1.5 * float(allowed))


def test_dropout_of_attention_is_in_the_gradient_too() -> None:
    """The weights after dropout are read off by giving each key its own value; the gradient has to be of the same."""
    q, k, _ = drawn((2, 3, 3, 9, 9), torch.bfloat16)
    v = torch.eye(9, dtype=torch.bfloat16).expand(2, 3, 9, 9).clone().requires_grad_()
    torch.manual_seed(1)
    weights = quick.attention(q, k, v, None, causal=False, scale=None, dropout=0.4).transpose(1, 2)
    assert 0.2 < (weights == 0).float().mean() < 0.6
    towards = torch.randn(2, 9, 3, 9).bfloat16()
    (dv,) = torch.autograd.grad(weights.transpose(1, 2), v, towards, retain_graph=True)
    torch.testing.assert_close(dv.float(), (weights.mT @ towards.transpose(1, 2)).float(), rtol=0.02, atol=0.02)
    plain = F.scaled_dot_product_attention(q, k, v)
    (dq,) = torch.autograd.grad(weights.transpose(1, 2), q, towards)
    kept = (weights != 0).float() / 0.6
    exact = [t.detach().float().requires_grad_() for t in (q, k)]
    softmax = (exact[0] @ exact[1].mT / 3).softmax(-1)
    torch.testing.assert_close(plain.float(), softmax, rtol=0.02, atol=0.01)
    (wanted,) = torch.autograd.grad(softmax * kept, exact[0], towards.transpose(1, 2).float())
    assert (dq.float() - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_follows_the_seed_and_drops_its_share(p: float) -> None:
    layer, x = quick.Dropout(p), torch.ones(401, 333, requires_grad=True)
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    assert torch.equal(first, layer(x)) and not torch.equal(first, layer(x))
    assert (first == 0).float().mean().item() == pytest.approx(p, abs=0.005)
    assert first.mean().item() == pytest.approx(1, abs=0.02)
    (gradient,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(gradient, first)
    assert layer.eval()(x) is x


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_of_nothing_and_of_everything(p: float) -> None:
    assert torch.equal(quick.Dropout(p)(torch.ones(5)), torch.full((5,), 1 - p))


def test_neighbouring_draws_have_nothing_in_common() -> None:
    kept = quick.noise((2000, 64), 0.5, torch.float32) / 2
    similar = torch.corrcoef(kept.T) - torch.eye(64)
    assert similar.abs().max() < 0.12


@pytest.mark.parametrize("name,head", [("bert", "sequence-classification"), ("llama", "causal-lm")])
def test_a_model_is_what_it_was(bases: dict[str, Path], name: str, head: str) -> None:
    """Without training to the bit; while training in bf16, up to bf16's own error."""
    import transformers

    model = loaded(bases[name], head)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    other = type(model)(transformers.AutoConfig.from_pretrained(bases[name], num_labels=2))
    other.load_state_dict(model.state_dict())
    ids = torch.arange(5, 45).view(4, 10)
    asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids).index_fill_(1, torch.tensor([9]), 0)}
    with torch.no_grad():
        assert torch.equal(model.eval()(**asked).logits, other.eval()(**asked).logits)
    slopes = []
    for one, autocast in ((model, True), (other, True), (other, False)):
        one.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = one(**asked).logits
        logits.float().logsumexp(-1).sum().backward()
        slopes.append(torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None]))
    ours, theirs, exact = slopes
    assert not torch.equal(ours, theirs)
    assert (ours - exact).norm() < 1.5 * (theirs - exact).norm()


def loaded(path: Path, head: str) -> nn.Module:
    return load(resolve(path), head, labels=["a", "b"] if "class" in head else None).model


# ---------------------------------------------------------------------- entry by entry

WHERE = {"T5LayerNorm": "t5", "SmolLM3RMSNorm": "smollm3", "SmolLM3MLP": "smollm3", "Phi3RMSNorm": "phi3"}


def theirs(name: str) -> type[nn.Module]:
    """A class of transformers by its name."""
    family = WHERE.get(name, name.removesuffix("RMSNorm").removesuffix("MLP").lower())
    found: type[nn.Module] = getattr(import_module(f"transformers.models.{family}.modeling_{family}"), name)
    return found


def gated(name: str, act: str) -> nn.Module:
    config = SimpleNamespace(
        hidden_size=12, intermediate_size=20, hidden_act=act, hidden_activation=act, mlp_bias=False, bias=False
    )
    return theirs(name)(config)


def compared(module: nn.Module, x: Tensor) -> None:
    """Output and all gradients against the module as it came; the gradient that comes back is not contiguous."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) / 4)
    quicker = copy.deepcopy(module)
    holder = nn.Sequential(quicker)
    entrywise.quicken(holder)
    assert type(quicker) is not type(module) and isinstance(quicker, type(module))
    assert list(holder.state_dict()) == [f"0.{name}" for name in module.state_dict()]
    towards = torch.randn(x.shape[1], x.shape[0], 12).transpose(0, 1)
    for precision in (torch.float32, torch.bfloat16):
        found = []
        for one in (module, quicker):
            mine = x.to(precision).requires_grad_()
            one.zero_grad()
            with torch.autocast("cpu", enabled=precision == torch.bfloat16):
                output = one(mine)
            tensors = [mine, *one.parameters()]
            found.append([output, *torch.autograd.grad(output, tensors, towards.to(output.dtype))])
        least = 1e-5 if precision == torch.float32 else 0.02
        assert precision == torch.bfloat16 or torch.equal(found[0][0], found[1][0])
        for a, b in zip(*found, strict=True):
            assert a.dtype == b.dtype and (a - b).detach().float().norm() <= least * a.detach().float().norm()


@pytest.mark.parametrize("name", entrywise.NORMS)
def test_a_norm_and_its_gradients_are_those_of_transformers(name: str) -> None:
    torch.manual_seed(0)
    compared(theirs(name)(12), 3 * torch.randn(2, 5, 12) + 0.5)


@pytest.mark.parametrize("act", ["silu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("name", entrywise.GATED)
def test_a_gated_layer_and_its_gradients_are_those_of_transformers(name: str, act: str) -> None:
    torch.manual_seed(0)
    compared(gated(name, act), torch.randn(2, 5, 12))


def test_what_a_gate_can_compute_again_is_not_kept() -> None:
    def kept(module: nn.Module) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            module(x)
        return sum(sizes.values())

    torch.manual_seed(0)
    module, x = gated("LlamaMLP", "silu").requires_grad_(False), torch.randn(2, 5, 12, requires_grad=True)
    before = kept(module)
    entrywise.quicken(nn.Sequential(module))
    assert before - kept(module) == 2 * 5 * 20


def test_a_gate_of_another_kind_stays() -> None:
    module = gated("LlamaMLP", "relu")
    entrywise.quicken(nn.Sequential(module))
    assert type(module) is theirs("LlamaMLP")
