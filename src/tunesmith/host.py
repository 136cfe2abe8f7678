"""The host: attaches parts to a model, switches them off, folds, saves and loads them, and chooses what trains.

A part knows nothing of this. An adapter is a map from a site's input and output to its new output; whatever has to be
done with adapters in general is done here, once, for all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError, RunError
from .models.anatomy import Anatomy, Site, Weight, untie


class Host(nn.Module):
    """A model and what has been attached to it.

    Args:
        model: a Hugging Face model. It stays usable by itself; attached parts act through forward hooks.
        fresh: names of tensors that were newly made for the task; they train under every choice.
    """

    def __init__(self, model: nn.Module, fresh: tuple[str, ...] | list[str] = ()):
        super().__init__()
        self.model: Any = model  # a Hugging Face model; its attributes have no types
        self.anatomy = Anatomy(model, fresh)
        self.adapters = nn.ModuleDict()
        self._sites: dict[str, Site] = {}
        self._stacks: dict[str, list[str]] = {}
        self._hooks: dict[str, torch.utils.hooks.RemovableHandle] = {}
        self._on = True
        self.origin: dict[str, Tensor] = {}
        self.guests: dict[nn.Module, Host] = {}
        self.train_only()

    # ------------------------------------------------------------------ attaching

    def attach(self, part: Any, *, seed: int = 0) -> list[str]:
        """Give an adapter to every site that its settings name; what was attached before stays below it.

        Args:
            part: a chosen adapter (`tunesmith.parts.Chosen`); its ``targets`` and ``layers`` say where.
            seed: every random number of the adapters' birth comes from it.

        Returns:
            The names of the new adapters.

        Raises:
            InputError: no site fits, or the adapter cannot act on one that was named.
        """
        kind = part.part.load()
        sites = self.anatomy.select(part.settings["targets"], part.settings["layers"])
        named = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for site in sites:
                if site.kind not in kind.accepts:
                    raise InputError(
                        f"adapter {part.name} cannot act on {site.role} ({site.kind})",
                        expected=f"a site of kind {' or '.join(kind.accepts)}",
                    )
                named.append(self._add(part.name, site, part.build(site)))
        return named

    def _add(self, name: str, site: Site, adapter: nn.Module) -> str:
        weight = site.module.weight
        adapter.to(device=weight.device, dtype=torch.float32 if weight.dtype.itemsize < 4 else weight.dtype)
        key = f"{site.name}.{name}".replace(".", "/")
        stack = self._stacks.setdefault(site.path, [])
        key += "" if key not in self.adapters else f"/{sum(k.startswith(key) for k in stack)}"
        self.adapters[key] = adapter
        self._sites[key] = site
        stack.append(key)
        if site.path not in self._hooks:
            self._hooks[site.path] = site.module.register_forward_hook(self._hook(site.path))
        return key.replace("/", ".")

    def _hook(self, path: str) -> Any:
        def act(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            return self._act(path, inputs[0], output) if self._on else None

        return act

    def _act(self, path: str, x: Tensor, y: Tensor) -> Tensor:
        for key in self._stacks[path]:
            rows = self._sites[key].rows
            if rows is None:
                y = self.adapters[key](x, y)
            else:
                y = y.slice_scatter(self.adapters[key](x, y[..., rows]).to(y.dtype), -1, rows.start, rows.stop)
        return y

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside this block the model is its base, bit for bit."""
        before, self._on = self._on, False
        try:
            yield
        finally:
            self._on = before

    @torch.no_grad()
    def remember(self) -> None:
        """Keep the values that the model's own trained tensors have now (``origin``), for what compares with the base."""
        self.origin = {n: p.detach().clone() for n, p in self.trainable().items() if n.startswith("model.")}

    @contextlib.contextmanager
    def head_only_at(self, places: Tensor) -> Iterator[None]:
        """Inside this block a language model's head is applied only at these places: its logits are (places, vocabulary).

        Args:
            places: mask over (rows, length) of the head's input.
        """

        def select(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (inputs[0][places], *inputs[1:])

        handle = self.model.get_output_embeddings().register_forward_pre_hook(select)
        try:
            yield
        finally:
            handle.remove()

    def forward(self, **batch: Any) -> Any:
        """The model's output for a batch, with everything that is attached."""
        return self.model(**batch)

    # ------------------------------------------------------------------ what trains

    def train_only(self, mask: Any = None) -> None:
        """Let train: the adapters, the tensors made for the task, and what the mask chooses of the model's own.

        Raises:
            InputError: nothing at all would train.
        """
        for weight in self.anatomy.weights:
            weight.parameter.requires_grad_(weight.fresh or (mask is not None and mask.trains(weight)))
        if mask is not None and not self.trainable():
            raise InputError(
                f"mask {type(mask).__name__} leaves nothing to train in {type(self.model).__name__}",
                fix="choose another mask, or add an adapter",
            )

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> tensor of everything that trains: the adapters' (``adapter.``) and the model's own (``model.``)."""
        own = {f"model.{w.name}": w.parameter for w in self.anatomy.weights if w.parameter.requires_grad}
        return {**self._adapter_parameters(), **own}

    def _adapter_parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"adapter.{key.replace('/', '.')}.{name}": parameter
            for key, adapter in self.adapters.items()
            for name, parameter in adapter.named_parameters()
            if parameter.requires_grad
        }

    def by_module(self) -> dict[str, list[tuple[Site, Any]]]:
        """Path of each adapted module -> its sites and adapters, the lowest first."""
        return {path: [(self._sites[k], self.adapters[k]) for k in keys] for path, keys in self._stacks.items()}

    def name_of(self, adapter: nn.Module) -> str:
        """The name of an attached adapter, as it stands in the names of its tensors."""
        return next(key for key, value in self.adapters.items() if value is adapter).replace("/", ".")

    def weights(self) -> dict[str, Weight]:
        """Name -> description of each of the model's own tensors that train."""
        return {f"model.{w.name}": w for w in self.anatomy.weights if w.parameter.requires_grad}

    # ------------------------------------------------------------------ saving and loading

    def state(self) -> dict[str, Tensor]:
        """Everything that the run has changed or that cannot be made again from the base: name -> tensor."""
        adapters = {
            f"adapter.{key.replace('/', '.')}.{name}": tensor
            for key, adapter in self.adapters.items()
            for name, tensor in adapter.state_dict().items()
        }
        own = {name: p for name, p in self.trainable().items() if name.startswith("model.")}
        return {name: tensor.detach() for name, tensor in {**adapters, **own}.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put a saved state into the tensors it came from.

        Raises:
            RunError: a tensor is missing, left over, or of another shape.
        """
        here = self.state()
        if missing := sorted(here.keys() - state.keys()):
            raise RunError(f"the saved state lacks {len(missing)} trained tensors, first {missing[0]}")
        if extra := sorted(state.keys() - here.keys()):
            raise RunError(f"the saved state has {len(extra)} tensors that this recipe does not, first {extra[0]}")
        for name, tensor in here.items():
            if tensor.shape != state[name].shape:
                raise RunError(f"{name} was saved as {tuple(state[name].shape)}, this recipe has {tuple(tensor.shape)}")
            tensor.copy_(state[name])

    # ------------------------------------------------------------------ folding

    def why_not_fold(self) -> str | None:
        """The reason why the adapters cannot become part of the model's own weights, or None."""
        for key, adapter in self.adapters.items():
            if not adapter.folds:
                return f"{type(adapter).__name__} is not an affine map of its site's input"
            if self._sites[key].kind == "norm":
                return f"{self._sites[key].path} has no matrix to fold into"
        return None

    @torch.no_grad()
    def fold(self) -> None:
        """Make the adapters part of the model's own weights, and let go of them.

        Each adapted module is probed with zero and with the identity in double precision: its outputs are its new
        bias and, less the bias, its new weight. So nothing here knows how any technique works.

        Raises:
            RunError: an adapter is not affine, or needs a bias where the module has none.
        """
        if reason := self.why_not_fold():
            raise RunError(f"cannot be folded: {reason}")
        for path, keys in self._stacks.items():
            sites = [self._sites[key] for key in keys]
            untie(self.model, sites[0].module.weight)
            self._fold_one(path, sites[0].module)
            self._hooks.pop(path).remove()
        self.adapters = nn.ModuleDict()
        self._sites, self._stacks = {}, {}

    def _fold_one(self, path: str, module: Any) -> None:
        mine = [self.adapters[key] for key in self._stacks[path]]
        kinds = [(p, p.dtype) for m in (module, *mine) for p in (*m.parameters(), *m.buffers())]
        training = [m.training for m in mine]
        for m in (module, *mine):
            m.double().eval()
        table = isinstance(module, nn.Embedding)
        size = module.num_embeddings if table else next(s for s in self._sites.values() if s.path == path).inputs
        device = module.weight.device
        probe = torch.arange(size, device=device) if table else torch.eye(size, dtype=torch.float64, device=device)
        zero = None if table else module(torch.zeros(1, size, dtype=torch.float64, device=device))
        weight = module(probe) if zero is None else (module(probe) - zero).T
        for parameter, dtype in kinds:
            parameter.data = parameter.data.to(dtype)
        for m, was in zip(mine, training, strict=True):
            m.train(was)
        self._write(path, module, weight, zero)

    def _write(self, path: str, module: Any, weight: Tensor, zero: Tensor | None) -> None:
        bias = getattr(module, "bias", None)
        if zero is not None and bias is None and zero.abs().max() > 0:
            raise RunError(f"cannot be folded: {path} has no bias, and its adapter adds one")
        target = module.weight
        target.copy_(weight.T if type(module).__name__ == "Conv1D" else weight)
        if bias is not None and zero is not None:
            bias.copy_(zero[0])
