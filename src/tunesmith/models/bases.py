"""The base that a run starts from: found by alias, folder or hub id, and loaded with the head that its task needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, unknown
from . import folder as folders
from . import hub, packaged
from .catalogue import Architecture
from .quiet import quiet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HEADS = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "causal-lm": "AutoModelForCausalLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "masked-lm": "AutoModelForMaskedLM",
    "masked-cloze": "AutoModelForMaskedLM",
    "causal-cloze": "AutoModelForCausalLM",
}


@dataclass(frozen=True)
class BaseInfo:
    """A base on this machine, known from its files; nothing is loaded yet.

    Attributes:
        name: as the user gave it.
        path: its folder.
        revision: commit of a hub model, version of a packaged one; None for a folder.
        model_type: as in its config.json.
        architecture: ``encoder``, ``decoder`` or ``encoder-decoder``.
        max_length: tokens that it takes at once; None if nothing limits them.
        parameters: number of float weights stored.
        licence: as stated by package or model card; None if none is.
        config: its config.json.
    """

    name: str
    path: Path
    revision: str | None
    model_type: str
    architecture: Architecture
    max_length: int | None
    parameters: int
    licence: str | None
    config: dict[str, Any]

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the weights, computed on first use (about a second a gigabyte)."""
        return folders.fingerprint(folders.weights_of(self.path))

    @property
    def width(self) -> int | None:
        """Size of its hidden states; None where its config.json states none."""
        return folders.width_of(self.config)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, with its chat template where it has one.

        Raises:
            InputError: transformers cannot read it.
        """
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.path, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # whatever a tokenizer's own reader throws at a damaged file
            raise InputError(f"the tokenizer cannot be read ({_first_line(error)})", where=self.path) from error


@dataclass(frozen=True)
class Loaded:
    """A model and the names of its tensors that are not from the base: they start random and must be trained."""

    model: PreTrainedModel
    fresh: list[str]


def resolve(base: str | os.PathLike[str], revision: str | None = None) -> BaseInfo:
    """Find a base: the alias of a packaged one, a folder, or OWNER/NAME on the hub (at ``revision``, default main).

    An alias wins over a folder of the same name: write ``./name`` for the folder.

    Raises:
        InputError: none of the three, a folder that tunesmith cannot use, no network, a revision where there is none.
    """
    name = os.fspath(base)
    packed = {entry.alias: entry for entry in packaged.catalogue()}.get(name)
    path = Path(name).expanduser()
    is_hub = packed is None and not path.is_dir() and hub.is_id(name)
    if packed and revision not in (None, packed.version):
        raise InputError(f"revision {revision!r}", where=name, expected=packed.version, fix="leave the revision out")
    if packed:
        found = _read(packaged.fetch(name), name, packed.version, packed.architecture)
        return replace(found, licence=packed.licence)
    if is_hub:
        downloaded = hub.download(name, revision)
        return _read(downloaded, name, downloaded.name)
    if not path.is_dir():
        if path.exists():
            raise InputError("is a file", where=name, expected="a model folder", fix="give the folder that holds it")
        if name.startswith((".", "~", "/")) or len(path.parts) > 2 or path.is_absolute():
            raise InputError("no such folder", where=name, expected="a model folder", fix="check the path")
        aliases = [entry.alias for entry in packaged.catalogue()]
        raise unknown("base", name, [*aliases, "FOLDER", "OWNER/NAME"])
    if revision is not None:
        raise InputError(f"revision {revision!r} of a folder", where=name, fix="leave it out: it is for a hub model")
    return _read(path.resolve(), name, None)


def load(
    info: BaseInfo,
    head: str,
    *,
    labels: Sequence[str] | None = None,
    dtype: torch.dtype | str = "float32",
    seed: int = 0,
    problem: str | None = None,
) -> Loaded:
    """Load a base with a head: ``sequence-classification``, ``token-classification``, ``causal-lm``, ``seq2seq-lm`` or
    ``masked-lm``, which an encoder gets newly made where it has none; ``masked-cloze`` and ``causal-cloze`` are a language
    model's head that tells classes by words.

    ``labels`` name the outputs of a classifier; without labels a sequence classifier predicts one number.
    ``problem`` overrides transformers' ``problem_type``, e.g. ``multi_label_classification``. Weights that the base
    lacks are drawn from ``seed``, whatever was drawn before. A head of the base is kept only if its labels are these.
    A decoder without a padding token gets its end token's id as ``pad_token_id``; masks must go by position.

    Raises:
        InputError: unknown head, one that this architecture cannot have, or weights that are not this model's.
    """
    import torch
    import transformers

    if head not in HEADS:
        raise unknown("head", head, HEADS)
    _check_head(info, head)
    config = _configured(info, head, labels, problem)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model, report = getattr(transformers, HEADS[head]).from_pretrained(
                info.path, config=config, dtype=dtype, use_safetensors=True, local_files_only=True,
                trust_remote_code=False, ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"cannot be loaded for {head} ({_first_line(error)})", where=info.path) from error
        fresh = set(report["missing_keys"]) | {entry[0] for entry in report["mismatched_keys"]}
        if head == "masked-cloze" and fresh:
            raise InputError(
                "has no masked-language-model head", where=info.name,
                expected="a base that has one (packaged: splade-tiny), or a causal one (smollm2-135m, gemma3-270m)",
            )  # fmt: skip
        if "cloze" not in head:
            fresh |= _renew_foreign_head(model, info, labels, fresh)
    _check_share(model, info, fresh)
    _set_padding(model, info)
    _quicken(model)
    return Loaded(model, sorted(fresh))


def sketch(info: BaseInfo, head: str, *, labels: Sequence[str] | None = None, problem: str | None = None) -> Loaded:
    """The model that `load` gives, made from ``config.json`` and the weights' headers; no weight is read.

    Meant for a context in which new tensors take no memory: a meta device, or PyTorch's fake tensors.

    Raises:
        InputError: unknown head, or one that this architecture cannot have.
    """
    import torch
    import transformers

    if head not in HEADS:
        raise unknown("head", head, HEADS)
    _check_head(info, head)
    config = _configured(info, head, labels, problem)
    with quiet(), torch.random.fork_rng(devices=[]):
        model = getattr(transformers, HEADS[head]).from_config(config, dtype=torch.float32)
        fresh = set()
        if "cloze" not in head:
            fresh = _not_stored(model, folders.shapes_of(folders.weights_of(info.path)))
            fresh |= _renew_foreign_head(model, info, labels, fresh)
    _set_padding(model, info)
    _quicken(model)
    return Loaded(model, sorted(fresh))


def _quicken(model: PreTrainedModel) -> None:
    from . import attention, entrywise, quick

    with quiet():
        attention.use(model)
    quick.quicken(model)
    entrywise.quicken(model)


def _not_stored(model: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Tensors that the weights' files lack, by the end of their names: what stands before it differs between heads."""
    prefix = f"{model.base_model_prefix}."
    stored = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    lacks = {n for n, shape in wanted.items() if stored.get(n.removeprefix(prefix)) != shape}
    trunk = {n for n in lacks if n.startswith(prefix)}
    renamed = len(trunk) > 8  # an older file names its tensors otherwise, and has them all the same
    return lacks - trunk if renamed else lacks


def _read(path: Path, name: str, revision: str | None, architecture: Architecture | None = None) -> BaseInfo:
    config = folders.read_config(path)
    return BaseInfo(
        name=name,
        path=path,
        revision=revision,
        model_type=config["model_type"],
        architecture=architecture or folders.architecture_of(config),
        max_length=folders.max_length_of(path, config),
        parameters=folders.count_parameters(folders.weights_of(path)),
        licence=folders.licence_of(path),
        config=config,
    )


def _check_head(info: BaseInfo, head: str) -> None:
    needed = {"causal-lm": "decoder", "causal-cloze": "decoder", "masked-cloze": "encoder",
              "masked-lm": "encoder", "seq2seq-lm": "encoder-decoder"}.get(head, info.architecture)  # fmt: skip
    if info.architecture != needed:
        raise InputError(
            f"is an {info.architecture}" if info.architecture.startswith("e") else f"is a {info.architecture}",
            where=info.name,
            expected=f"an {needed} for {head}" if needed.startswith("e") else f"a {needed} for {head}",
            fix="choose another base or another task",
        )


def _check_share(model: PreTrainedModel, info: BaseInfo, fresh: set[str]) -> None:
    sizes = {name: tensor.numel() for name, tensor in model.named_parameters()}
    share = sum(sizes.get(name, 0) for name in fresh) / sum(sizes.values())
    if share > 0.5:
        raise InputError(
            f"the weights lack {share:.0%} of the {type(model).__name__} that config.json describes", where=info.path,
            fix="save the model again with model.save_pretrained(...)",
        )  # fmt: skip


def _configured(info: BaseInfo, head: str, labels: Sequence[str] | None, problem: str | None) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(info.path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"config.json cannot be used ({_first_line(error)})", where=info.path) from error
    if "classification" not in head:
        return config
    if labels is None and head == "token-classification":
        raise InputError("a token classifier without labels", where=info.name, expected="labels")
    names = ["LABEL_0"] if labels is None else list(labels)
    config.id2label = dict(enumerate(names))
    config.label2id = {label: index for index, label in enumerate(names)}
    if head == "sequence-classification":
        config.problem_type = problem or ("regression" if labels is None else "single_label_classification")
    _set_padding_id(config, info)
    return config


def _set_padding_id(config: Any, info: BaseInfo) -> None:
    text = config.get_text_config()
    if getattr(text, "pad_token_id", None) is not None:
        return
    end = text.eos_token_id
    text.pad_token_id = info.tokenizer().pad_token_id
    if text.pad_token_id is None:
        text.pad_token_id = end[0] if isinstance(end, list) else end


def _set_padding(model: PreTrainedModel, info: BaseInfo) -> None:
    _set_padding_id(model.config, info)
    if model.can_generate() and model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = model.config.get_text_config().pad_token_id


def _renew_foreign_head(
    model: PreTrainedModel, info: BaseInfo, labels: Sequence[str] | None, fresh: set[str]
) -> set[str]:
    """Draw the output layer anew where the base's head, of the same size, was for other labels."""
    import torch

    known = info.config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # what transformers leaves out
    if labels is None or [known[key] for key in sorted(known, key=int)] == list(labels):
        return set()
    std = getattr(model.config.get_text_config(), "initializer_range", 0.02)
    renewed = set()
    for name, module in model.named_modules():
        inner = name.startswith(f"{model.base_model_prefix}.")
        if inner or not isinstance(module, torch.nn.Linear) or module.out_features != len(labels):
            continue
        if f"{name}.weight" not in fresh:
            torch.nn.init.normal_(module.weight, std=std)
            renewed.add(f"{name}.weight")
        if module.bias is not None and f"{name}.bias" not in fresh:
            torch.nn.init.zeros_(module.bias)
            renewed.add(f"{name}.bias")
    return renewed


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
