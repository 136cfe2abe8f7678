"""The host: attaches parts to a model, switches them off, folds, saves and loads them, and chooses what trains.

A part knows nothing of this. An adapter is a map from a site's input and output to its new output; whatever has to be
done with adapters in general is done here, once, for all of them.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError, RunError
from .forwards import Attention, Forward, Tokens
from .masks import EntryMask
from .masks._weights import check_roles
from .models import attention
from .models.anatomy import Anatomy, Site, Weight, untie
from .models.around import layer as around_layer
from .models.below import Below
from .models.packing import Packer
from .models.reach import Instead, enter, listen, reach
from .patches import Patch


class Host(nn.Module):
    """A model and what has been attached to it.

    Args:
        model: a Hugging Face model. It stays usable by itself; attached parts act through forward hooks.
        fresh: names of tensors that were newly made for the task; they train under every choice.

    Attributes:
        begun: name of a tensor that differences of earlier runs have changed -> hash of what it is in the base.
        notes: what has to be said of the model as it begins.
        rested: own weights that rested together -> in how many steps.
    """

    def __init__(self, model: nn.Module, fresh: tuple[str, ...] | list[str] = ()):
        super().__init__()
        self.model: Any = model  # a Hugging Face model; its attributes have no types
        self.anatomy = Anatomy(model, fresh)
        self.adapters = nn.ModuleDict()
        self.shared = nn.ModuleDict()
        self._attached: list[list[str]] = []
        self._sites: dict[str, Site] = {}
        self._stacks: dict[str, list[str]] = {}
        self._members: dict[str, list[str]] = {}
        self._hooks: dict[str, list[Any]] = {}
        self._on = True
        self.origin: dict[str, Tensor] = {}
        self.guests: dict[nn.Module, Host] = {}
        self.patches: dict[str, Patch] = {}
        self.begun: dict[str, str] = {}
        self.notes: list[str] = []
        self._rule: EntryMask | None = None
        self._resting: set[str] = set()
        self.rested: Counter[frozenset[str]] = Counter()
        self._watched: Tensor | bool = False
        self._left_out: dict[Any, str] = {}
        self.reads = False
        self._given: Tensor | None = None
        self.head_rows: Tensor | None = None
        self.packer: Packer | None = None
        self.below: Below | None = None
        self.train_only()

    @property
    def trunk(self) -> str:
        """How the names of the tensors below the head begin."""
        prefix = getattr(self.model, "base_model_prefix", "")
        return f"{prefix}." if prefix and hasattr(self.model, prefix) else ""

    # ------------------------------------------------------------------ attaching

    def attach(self, part: Any, *, seed: int = 0, begin: bool = True) -> list[str]:
        """Give an adapter to every site that its settings name; what was attached before stays below it.

        Args:
            part: a chosen adapter (`tunesmith.parts.Chosen`); its ``targets`` and ``layers`` say where.
            seed: every random number of the adapters' birth comes from it.
            begin: let the adapters compute their start; not needed where a saved state is loaded next.

        Returns:
            The names of the new adapters.

        Raises:
            InputError: no site fits, or the adapter cannot act on one that was named.
        """
        kind = part.part.load()
        sites = self._where(part.settings["targets"], part.settings["layers"])
        for site in sites:
            if site.kind not in kind.accepts:
                raise InputError(
                    f"adapter {part.name} cannot act on {site.role} ({site.kind})",
                    expected=f"a site of kind {' or '.join(kind.accepts)}",
                )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sites = self._share(part.name, sites, kind.share(sites, **part.own))
            keys = [self._add(part.name, site, part.build(site), begin) for site in sites]
        self._attached.append(keys)
        if part.settings["frozen"]:
            for module in (*(self.adapters[key] for key in keys), *(s.shared for s in sites if s.shared is not None)):
                module.requires_grad_(False)
        return [key.replace("/", ".") for key in keys]

    def _where(self, roles: list[str], layers: Any) -> list[Site]:
        """The sites that an adapter asks for; ``adapted`` is every one that has at least two adapters."""
        if roles != ["adapted"]:
            return self.anatomy.select(roles, layers)
        several = [self._sites[keys[0]] for keys in self._stacks.values() if len(keys) > 1]
        kept = [s for s in several if layers == "all" or s.layer in {n % self.anatomy.layers(s.stack) for n in layers}]
        if not kept:
            raise InputError("no site has two adapters to combine", fix="name those that are combined before it")
        return kept

    def _share(self, name: str, sites: list[Site], common: nn.Module | None) -> list[Site]:
        if common is None:
            return sites
        weight = next(sites[0].module.parameters())
        key = name + ("" if name not in self.shared else f"/{len(self.shared)}")
        self.shared[key] = _beside(common, weight)
        return [replace(site, shared=common) for site in sites]

    def _add(self, name: str, site: Site, adapter: Any, begin: bool) -> str:
        if begin:
            adapter.begin()
        weight = next(site.module.parameters())
        _beside(adapter, weight)
        key = f"{site.name}.{name}".replace(".", "/")
        stack = self._stacks.setdefault(site.path, [])
        key += "" if key not in self.adapters else f"/{sum(k.startswith(key) for k in self.adapters)}"
        self.adapters[key] = adapter
        self._sites[key] = site
        if getattr(adapter, "composes", False):
            self._compose(key, adapter, stack)
        self._check_computed(name, site, replaces=adapter.replaces)
        if adapter.reads and not self.reads:
            listen(self.anatomy.select(["input"])[0], self._see)
            self.reads = True
        stack.append(key)
        if site.path not in self._hooks:
            self._hooks[site.path] = reach(self.model, site, functools.partial(self._act, site.path), lambda: self._on)
            if site.kind == "linear":
                self._hooks[site.path].append(enter(site, functools.partial(self._enter, site.path)))
        if adapter.replaces and stack[0] == key:
            compute = functools.partial(self._instead, site.path)
            self._hooks[site.path].append(Instead(site, compute, functools.partial(self._replacing, site.path)))
        return key

    def _check_computed(self, name: str, site: Site, *, replaces: bool) -> None:
        """No adapter may act on a matrix that another one leaves out.

        Raises:
            InputError: one does.
        """
        if replaces:
            adapted = [p.path for p in site.parts.values() if p.path in self._stacks]
            if adapted:
                raise InputError(f"adapter {name} leaves out {adapted[0]}, which an adapter before it acts on",
                                 fix="give that one other targets, e.g. [attention.*]")  # fmt: skip
            self._left_out |= {p.module: name for p in site.parts.values()}
        elif not site.place and site.module in self._left_out:
            raise InputError(f"adapter {name} acts on {site.path}, which adapter {self._left_out[site.module]} leaves out",
                             fix=f"give {name} other targets, e.g. [attention.*]")  # fmt: skip

    def _replacing(self, path: str) -> bool:
        """Whether the lowest adapter of a sub-layer stands in the place of its matrices at the moment."""
        lowest: Any = self.adapters[self._stacks[path][0]]
        return bool(lowest.replaces) and self._on and self._watched is False

    def _instead(self, path: str, x: Tensor) -> Tensor:
        adapter: Any = self.adapters[self._stacks[path][0]]
        said: Tensor = adapter(x, x)
        return said

    def _compose(self, key: str, adapter: Any, stack: list[str]) -> None:
        """Hand an adapter those that stand on its site; from here on it alone calls them."""
        if any(self._sites[k].rows != self._sites[key].rows for k in stack):
            raise InputError(
                f"{self._sites[key].path} has adapters on different parts of it",
                expected="adapters of the same outputs to combine",
            )
        self._members[key], stack[:] = list(stack), []
        adapter.members = [self.adapters[k] for k in self._members[key]]
        if adapter.freezes:
            for member in adapter.members:
                member.requires_grad_(False)

    def _entering(self, path: str) -> Any:
        """The adapter that acts on what the module reads, if it alone stands there and changes nothing else."""
        keys = self._stacks[path]
        one: Any = self.adapters[keys[0]] if len(keys) == 1 and self._sites[keys[0]].rows is None else None
        return one if one is not None and one.enters else None

    def _enter(self, path: str, x: Tensor) -> Tensor:
        one = self._entering(path) if self._on else None
        return x if one is None else one.enter(x).to(x.dtype)

    def _act(self, path: str, x: Tensor, y: Tensor) -> Tensor:
        if self._entering(path) is not None:
            return y
        for key in self._stacks[path][self._replacing(path) :]:
            rows = self._sites[key].rows
            if rows is None:
                y = self._through(key, x, y)
            else:
                y = y.slice_scatter(self._through(key, x, y[..., rows]).to(y.dtype), -1, rows.start, rows.stop)
        return y

    def _see(self, text: Tensor) -> None:
        if self._given is not None and self._given.shape != text.shape:
            raise InputError(
                "a term of the loss reads other texts than the rows', whose last places are not known",
                fix="leave the term out, or the adapter's places",
            )
        adapters: Any = self.adapters.values()
        for adapter in adapters:
            if adapter.reads:
                adapter.text = text if self._given is None else text & self._given

    def _through(self, key: str, x: Tensor, y: Tensor) -> Tensor:
        adapter: Any = self.adapters[key]
        new: Tensor = adapter(x, y)
        if self._watched is not False and adapter.observes:
            inside = self._sites[key].stack != "decoder"
            seen = [_places(t.detach(), self._watched if inside else True) for t in (x, y)]
            if not adapter.gradients:
                adapter.observe(*seen, None)
            elif new.requires_grad:
                new.register_hook(lambda g: adapter.observe(*seen, _places(g, self._watched if inside else True)))
        return new

    def compute(self, name: str, way: Forward) -> None:
        """Let a way to compute less stand around its layers or attentions, whenever the model trains and is not off.

        Args:
            name: of the way, for messages.
            way: says which layers, and what is left out.

        Raises:
            InputError: no layer is left for it, or the model computes these places in a way of its own.
        """
        sites = [s for s in self.anatomy.select([way.site], way.layers) if s.layer is not None]
        inner = [s for s in sites if way.ends <= (s.layer or 0) < self.anatomy.layers(s.stack) - way.ends]
        if not inner:
            raise InputError(f"forward {name} leaves no layer of {type(self.model).__name__}",
                             fix=f"set forward.{name}.ends below {way.ends}")  # fmt: skip
        owners = {(s.stack, s.layer): s.module for s in self.anatomy.places if s.role == "attention.keys"}

        def on() -> bool:
            return self._on and self.training

        for site in inner:
            if isinstance(way, Tokens):
                around_layer(self.model, site, owners[site.stack, site.layer], way.choose, on)
            elif isinstance(way, Attention):
                attention.compute(self.model, site.module, way.attend, on)

    # ------------------------------------------------------------------ what happens before and while it trains

    def techniques(self) -> list[list[Any]]:
        """The adapters of each attachment, in the order in which they were attached."""
        return [[self.adapters[key] for key in keys] for keys in self._attached]

    def observes(self) -> tuple[int, bool]:
        """Micro-batches that some adapter has to see before training, and whether one wants gradients."""
        curious = [adapters[0] for adapters in self.techniques() if adapters[0].observes]
        return max((a.observes for a in curious), default=0), any(a.gradients for a in curious)

    @contextlib.contextmanager
    def observing(self, mask: Tensor | None) -> Iterator[None]:
        """Inside this block the adapters that ask for it see their sites' inputs and outputs.

        Args:
            mask: (rows, length), 0 where the batch is padding; None for a batch without padding.
        """
        self._watched = True if mask is None else mask.bool()
        try:
            yield
        finally:
            self._watched = False

    @torch.no_grad()
    def settle(self) -> None:
        """Let each technique take what its adapters have observed into their tensors."""
        for adapters in self.techniques():
            if adapters[0].observes:
                type(adapters[0]).settle(adapters)

    def penalty(self) -> Tensor | None:
        """The sum of what the adapters add to the loss, or None."""
        found = [p for adapters in self.techniques() for a in adapters if (p := a.penalty()) is not None]
        return torch.stack(found).sum() if found else None

    @torch.no_grad()
    def after_step(self, progress: float) -> list[nn.Parameter]:
        """Let each technique act after an optimizer step; the parameters whose optimizer state is to be forgotten."""
        return [p for adapters in self.techniques() for p in type(adapters[0]).after_step(adapters, progress)]

    def rates(self) -> dict[str, float]:
        """Name of a trained tensor -> factor of its learning rate, where it is not 1."""
        return {
            f"adapter.{key.replace('/', '.')}.{name}": factor
            for keys, adapters in zip(self._attached, self.techniques(), strict=True)
            for key, adapter in zip(keys, adapters, strict=True)
            for name, factor in adapter.rates().items()
        }

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside this block the model is its base, bit for bit."""
        before, self._on = self._on, False
        for patch in self.patches.values() if before else ():
            patch.revert()
        if self.patches:
            torch.clear_autocast_cache()  # it holds weights in low precision, as they were
        try:
            yield
        finally:
            self._on = before
            if before:
                self.write()
            if self.patches:
                torch.clear_autocast_cache()

    @torch.no_grad()
    def remember(self) -> None:
        """Keep the values that the model's own trained tensors have now (``origin``), for what compares with the base."""
        self.origin = {n: p.detach().clone() for n, p in self.trainable().items() if n.startswith("model.")}

    @contextlib.contextmanager
    def head_only_at(self, places: Tensor, first: int | None = None) -> Iterator[list[Tensor]]:
        """Inside this block a language model's head is applied only at these places: its logits are (places, vocabulary).

        Args:
            places: mask over (rows, length) of the head's input; ``head_rows`` says whose each place is, (places,).
            first: apply it only to so many of them, the first ones.

        Yields:
            What the head would read at all of them, (places, size), pass by pass.
        """
        found: list[Tensor] = []

        def select(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            chosen = inputs[0][places]
            if first is None:
                return (chosen, *inputs[1:])
            found.append(chosen)
            return (chosen[:first], *inputs[1:])

        handle = self.model.get_output_embeddings().register_forward_pre_hook(select)
        self.head_rows = places.nonzero()[:, 0]
        try:
            yield found
        finally:
            self.head_rows = None
            handle.remove()

    def look_again(self) -> None:
        """Take note of the model's tensors anew, where something has put others in their place."""
        self.anatomy = Anatomy(self.model, self.anatomy.fresh)

    def pack(self) -> None:
        """From here on the trunk reads the rows of a batch end to end (`tunesmith.models.packing`); what is attached later
        to its input would see them so.

        Raises:
            InputError: the model cannot, or an adapter acts at places that it counts within rows.
        """
        if self.reads:
            raise InputError("an adapter acts at places of each row, and packing lays rows end to end", where="packing",
                             fix="leave packing out")  # fmt: skip
        if self.packer is None:
            self.packer = Packer(self.model, next((s for s in self.anatomy.places if s.kind == "input"), None))

    @property
    def packs(self) -> bool:
        """Whether batches are read without their padding."""
        return self.packer is not None and self.packer.ready

    @property
    def lengthened(self) -> bool:
        """Whether something attached adds tokens, keys or values of its own."""
        return any(site.kind in ("input", "attention") for site in self._sites.values())

    def forward(self, *, given: Tensor | None = None, **batch: Any) -> Any:
        """The model's output for a batch, with everything that is attached.

        Args:
            given: where a batch holds prompts with what is to be written, the prompts' places, bool (rows, length);
                asked for where an adapter ``reads``.
            batch: the model's inputs.
        """
        self._given = given
        try:
            return self.model(**batch)
        finally:
            self._given = None

    # ------------------------------------------------------------------ what trains

    def train_only(self, mask: Any = None) -> None:
        """Let train: the adapters, the tensors made for the task, and what the mask chooses of the model's own.

        Of a mask that chooses entries, nothing trains before they are given to `place`.

        Raises:
            InputError: the mask names a role that the model does not have, or nothing at all would train.
        """
        check_roles(self.anatomy.weights, getattr(mask, "roles", ()))
        self._rule = mask if mask is not None and mask.sparse else None
        self._resting = set()
        whole = mask if self._rule is None else None
        for weight in self.anatomy.weights:
            weight.parameter.requires_grad_(weight.fresh or (whole is not None and whole.trains(weight)))
        if mask is not None and not self.trainable() and not self.choosable(mask):
            raise InputError(
                f"mask {type(mask).__name__} leaves nothing to train in {type(self.model).__name__}",
                fix="choose another mask, or add an adapter",
            )

    def choosable(self, mask: Any) -> list[Weight]:
        """The model's own weights, those made for the task apart, that a mask may choose."""
        return [w for w in self.anatomy.weights if not w.fresh and mask.trains(w)]

    def place(self, chosen: Mapping[str, Tensor | None]) -> None:
        """Let these entries move: name of a weight -> flat indices, ascending, or None for all of it."""
        self._drop_patches(revert=True)
        ordered = [w for w in self.anatomy.weights if w.name in chosen]
        self.patches = {w.name: Patch(w, chosen[w.name], self._rule) for w in ordered}

    def write(self) -> None:
        """Bring the weights in line with the values of their entries, which may have been moved by anyone."""
        for patch in self.patches.values():
            patch.write()

    def _drop_patches(self, *, revert: bool) -> None:
        for patch in self.patches.values():
            patch.deafen()
            if revert:
                patch.revert()
        self.patches = {}

    def rest(self, resting: Iterable[str]) -> None:
        """Of the own weights that train, let these rest: they get no gradient until they are left out here."""
        mine = {w.name: w.parameter for w in self.weights().values()}
        self._resting = set(resting) & mine.keys()
        self.rested[frozenset(self._resting)] += 1
        for name, parameter in mine.items():
            parameter.requires_grad_(name not in self._resting)

    def count(self) -> int:
        """How many numbers train; of entries that are not chosen yet, about how many will."""
        pending = self._rule is not None and not self.patches
        later = self._rule.count(self.choosable(self._rule)) if pending and self._rule else 0
        return later + sum(p.numel() for p in self.trainable().values())

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> tensor of all that trains: the adapters' (``adapter.``), the model's own (``model.``), and the values
        of entries inside one of the model's own (``entries.``)."""
        own = {name: w.parameter for name, w in self.weights().items()}
        entries = {f"entries.{name}.values": patch.values for name, patch in self.patches.items()}
        return {**self._adapter_parameters(), **own, **entries}

    def _adapter_parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{key}.{name}": parameter
            for key, module in self._added()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def _added(self) -> Iterator[tuple[str, Any]]:
        """What adapters share and the adapters, by their names in a saved state."""
        yield from ((f"adapter.shared.{key.replace('/', '.')}", module) for key, module in self.shared.items())
        yield from ((f"adapter.{key.replace('/', '.')}", module) for key, module in self.adapters.items())

    def by_module(self) -> dict[str, list[tuple[Site, Any]]]:
        """Path of each adapted module -> its sites and adapters, the lowest first."""
        return {path: [(self._sites[k], self.adapters[k]) for k in keys] for path, keys in self._stacks.items()}

    def name_of(self, adapter: nn.Module) -> str:
        """The name of an attached adapter, as it stands in the names of its tensors."""
        return next(key for key, value in self.adapters.items() if value is adapter).replace("/", ".")

    def shared_by(self, names: Iterable[str]) -> list[str]:
        """The names of what these adapters share."""
        used = [self._sites[name.replace(".", "/")].shared for name in names]
        return [key.replace("/", ".") for key, module in self.shared.items() if any(module is u for u in used)]

    def weights(self) -> dict[str, Weight]:
        """Name -> description of each of the model's own tensors that trains whole, now or at another time of the run."""
        return {
            f"model.{w.name}": w
            for w in self.anatomy.weights
            if (w.parameter.requires_grad or w.name in self._resting) and w.name not in self.patches
        }

    # ------------------------------------------------------------------ saving and loading

    def state(self, *, training: bool = False) -> dict[str, Tensor]:
        """Everything that the run has changed or that cannot be made again from the base: name -> tensor.

        Args:
            training: with what only training needs (`Adapter.scratch`).
        """
        adapters = {
            f"{key}.{name}": tensor
            for key, module in self._added()
            for name, tensor in module.state_dict().items()
            if training or name not in getattr(module, "scratch", ())
        }
        own = {name: w.parameter for name, w in self.weights().items()}
        entries = {f"entries.{n}.{kind}": t for n, patch in self.patches.items() for kind, t in patch.state().items()}
        return {name: tensor.detach() for name, tensor in {**adapters, **own, **entries}.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], *, training: bool = False) -> None:
        """Put a saved state into the tensors it came from; an adapter that observes takes the sizes it was saved with.

        Raises:
            RunError: a tensor is missing, left over, or of another shape.
        """
        self._place_as(state)
        here = self.state(training=training)
        sized = self._sized()
        if missing := sorted(here.keys() - state.keys()):
            raise RunError(f"the saved state lacks {len(missing)} trained tensors, first {missing[0]}")
        if extra := sorted(state.keys() - here.keys()):
            raise RunError(f"the saved state has {len(extra)} tensors that this recipe does not, first {extra[0]}")
        for name, tensor in here.items():
            if name in sized and tensor.ndim == state[name].ndim:
                sized[name].data = state[name].to(tensor, copy=True)
                continue
            if tensor.shape != state[name].shape:
                raise RunError(f"{name} was saved as {tuple(state[name].shape)}, this recipe has {tuple(tensor.shape)}")
            tensor.copy_(state[name])
        self.write()

    def _place_as(self, state: Mapping[str, Tensor]) -> None:
        """Choose the entries that a saved state holds."""
        names = [n.removesuffix(".values") for n in state if n.startswith("entries.") and n.endswith(".values")]
        known = {w.name for w in self.anatomy.weights}
        if unknown := [n for n in names if n.removeprefix("entries.") not in known]:
            raise RunError(f"the saved state has {unknown[0]}, a weight that this model does not")
        same = all(self._has(n.removeprefix("entries."), state.get(f"{n}.indices")) for n in names)
        if same and len(names) == len(self.patches):
            return
        self.place({n.removeprefix("entries."): state.get(f"{n}.indices") for n in names})
        for name, patch in self.patches.items():
            given = state.get(f"entries.{name}.given")
            patch.given = None if given is None else given.to(patch.values.device).clone()

    def _has(self, name: str, indices: Tensor | None) -> bool:
        mine = self.patches[name].indices if name in self.patches else None
        if indices is None or mine is None:
            return name in self.patches and indices is mine
        return torch.equal(mine.cpu(), indices.to("cpu", mine.dtype))

    def _sized(self) -> dict[str, Tensor]:
        """Tensors of the adapters whose sizes follow from what they observed."""
        return {
            f"{key}.{name}": tensor
            for key, module in self._added()
            if getattr(module, "observes", 0)
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        }

    # ------------------------------------------------------------------ folding

    def why_not_fold(self) -> str | None:
        """The reason why the adapters cannot become part of the model's own weights, or None."""
        for key, adapter in self.adapters.items():
            if not adapter.folds:
                return f"{type(adapter).__name__} is not an affine map of its site's input"
            if self._sites[key].kind not in ("linear", "embedding"):
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
            for handle in self._hooks.pop(path):
                handle.remove()
        self.adapters, self.shared = nn.ModuleDict(), nn.ModuleDict()
        self._sites, self._stacks, self._members, self._attached = {}, {}, {}, []
        self._drop_patches(revert=False)

    def _fold_one(self, path: str, module: Any) -> None:
        members = [k for key in self._stacks[path] for k in self._members.get(key, ())]
        mine = [self.adapters[key] for key in (*self._stacks[path], *members)]
        whole = (module, *mine, *self.shared.values())
        kinds = [(p, p.dtype) for m in whole for p in (*m.parameters(), *m.buffers())]
        training = [m.training for m in mine]
        for m in whole:
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


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    """What is added to a model in half precision trains in single precision."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def _beside(module: nn.Module, weight: Tensor) -> nn.Module:
    """The module on a weight's device and in a precision that fits it; one that is there already is not touched."""
    device, dtype = weight.device, _at_least_single(weight.dtype)
    tensors = [*module.parameters(), *module.buffers()]
    there = all(t.device == device and (t.dtype == dtype or not t.is_floating_point()) for t in tensors)
    return module if there else module.to(device=device, dtype=dtype)


def _places(values: Tensor, mask: Tensor | bool) -> Tensor:
    """Activations (..., size) as (places, size), without padding where the mask fits them."""
    if isinstance(mask, Tensor) and mask.shape == values.shape[:-1]:
        return values[mask.to(values.device)]
    return values.flatten(0, -2)
