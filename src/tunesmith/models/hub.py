"""A model from the Hugging Face hub: its safetensors, configuration and tokenizer, in the hub's own cache."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import InputError
from ..packages import is_offline

_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md"]
_UNWANTED = ["*/*.safetensors", "consolidated*.safetensors", "onnx/*", "openvino/*", "original/*", "checkpoint*/*"]


def is_id(name: str) -> bool:
    """Whether ``name`` looks like OWNER/NAME.

    >>> is_id("google/bert_uncased_L-2_H-128_A-2"), is_id("./folder"), is_id("a/b/c")
    (True, False, False)
    """
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None


def download(name: str, revision: str | None = None) -> Path:
    """The folder of hub model ``name`` at ``revision`` (branch, tag or commit; default: main), downloaded if need be.

    Cache, mirror, token and offline mode are the hub's: ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_ENDPOINT``, ``HF_TOKEN``,
    ``HF_HUB_OFFLINE`` (or ``TUNESMITH_OFFLINE``). The folder's name is the commit.

    Raises:
        InputError: no such model or revision, no access, or no network and not in the cache.
    """
    import huggingface_hub as hub
    from huggingface_hub import errors

    at = f" at revision {revision!r}" if revision else ""
    offline = is_offline()
    try:
        path = hub.snapshot_download(
            name, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, local_files_only=offline
        )
    except errors.GatedRepoError as error:
        raise InputError(
            f"{name}: access is granted only on request", fix="ask on its hub page, then set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"there is no folder {name!r}, and the hub has no such model or it is private",
            fix="check the spelling, or set HF_TOKEN",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{name} has no revision {revision!r}", fix="name a branch, a tag or a commit") from error
    except errors.LocalEntryNotFoundError as error:
        why = "offline mode is on" if offline else "the hub cannot be reached"
        raise InputError(
            f"{name}{at} is not in the cache and {why}",
            fix="download it where there is a network: `hf download " + name + "`, or use a packaged base",
        ) from error
    except (OSError, errors.HfHubHTTPError, errors.HFValidationError) as error:
        reason = str(error).strip().splitlines()
        raise InputError(
            f"{name}{at} cannot be downloaded ({reason[0] if reason else type(error).__name__})",
            fix="try again, or use a packaged base",
        ) from error
    return Path(path)
