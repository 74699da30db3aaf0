# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The README.md of a codebook: what the Hub shows, searches and links, written from the codebook itself.

Owns the card's metadata and text. It measures nothing: every number comes from the codebook's provenance and metrics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCardData

from ..quantization.packing import TILE, bytes_per_tile


if TYPE_CHECKING:
    from ..codebook.codebook import Codebook


LIBRARY_NAME = "vecinfer"
TAGS = ("vecinfer", "kv-cache", "vector-quantization")
DESCRIBED = frozenset(("base_model", "bits_per_element", "key_bits", "value_bits", "recipe"))
"""The facts that the metadata of a card give about each of its codebooks."""
ERROR_PLOT = "error_per_layer.png"
GENERATED = "<!-- Written by vecinfer_hf; a push replaces this file. Remove this line to keep your own text. -->"
"""A README.md without this line belongs to its author: a push does not touch it."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BAR_WIDTH = 24
_LONGEST_FACT = 400
"""Characters; longer ones (measurements per layer) stay in config.json."""


def base_model_id(identity: Mapping[str, Any]) -> str | None:
    """Return the Hub id of the model a codebook was made for, or None if it came from a directory."""
    name = str(identity.get("name") or "")
    return name if _HUB_ID.fullmatch(name) else None


def describe(codebook: Codebook) -> dict[str, Any]:
    """Return the few facts about a codebook that its card's metadata carry, so that a search needs no download."""
    config = codebook.config
    return {
        "base_model": base_model_id(codebook.identity),
        "bits_per_element": round(codebook.bits_per_element, 4),
        "key_bits": _mean_bits(codebook, 0),
        "value_bits": _mean_bits(codebook, 1),
        "recipe": config.recipe,
    }


def card_data(entries: Mapping[str, Mapping[str, Any]], licence: str | None = None) -> ModelCardData:
    """Return the metadata of a repository's card.

    Args:
        entries: subfolder ("" for the root) -> `describe(codebook)`.
        licence: identifier of the licence, for example "apache-2.0".
    """
    bases = list(dict.fromkeys(entry["base_model"] for entry in entries.values() if entry.get("base_model")))
    bits = sorted({f"{entry['bits_per_element']:g}-bit" for entry in entries.values()})
    more: dict[str, Any] = {"base_model_relation": "quantized"} if bases else {}
    listed = [{"subfolder": name, **entry} for name, entry in sorted(entries.items())]
    return ModelCardData(
        base_model=(bases[0] if len(bases) == 1 else bases) or None,
        library_name=LIBRARY_NAME,
        license=licence,
        tags=[*TAGS, *bits],
        vecinfer=listed,
        **more,
    )


def codebook_card(
    codebook: Codebook,
    *,
    repo_id: str | None = None,
    subfolder: str | None = None,
    licence: str | None = None,
    with_plot: bool = False,
) -> str:
    """Return the README.md of one codebook.

    Args:
        codebook: the codebook.
        repo_id: the Hub repository it goes to; without it the usage example names a directory.
        subfolder: its directory inside that repository.
        licence: identifier of its licence; by default what its provenance says.
        with_plot: whether `error_per_layer.png` lies beside the card.
    """
    data = card_data({subfolder or "": describe(codebook)}, licence or (codebook.provenance or {}).get("license"))
    model = base_model_id(codebook.identity) or codebook.identity.get("name") or "MODEL"
    name = model.rsplit("/", 1)[-1]
    parts = [
        f"---\n{data.to_yaml()}\n---",
        GENERATED,
        f"# {name}: {codebook.bits_per_element:g}-bit VecInfer codebook",
        f"Stores the key/value cache of `{model}` as vector-quantization codes "
        f"([VecInfer](https://arxiv.org/abs/2510.06175)). The model's weights are untouched. "
        "Made with [vecinfer_hf](https://pypi.org/project/vecinfer-hf/).",
        "## How to use it",
        usage(model, repo_id, subfolder),
        "## Sizes",
        table(_sizes(codebook).items(), ("", "")),
        *_quality(codebook.metrics or {}),
        *_errors(codebook.provenance or {}, with_plot),
        "## Where it comes from",
        table(_origin(codebook).items(), ("", "")),
    ]
    return "\n\n".join(parts) + "\n"


def repository_card(entries: Mapping[str, Mapping[str, Any]], repo_id: str, licence: str | None = None) -> str:
    """Return the README.md of a repository whose codebooks lie in subfolders.

    Args:
        entries: subfolder -> `describe(codebook)`.
        repo_id: the repository.
        licence: identifier of the licence.
    """
    rows = []
    for name, entry in sorted(entries.items()):
        bits = (f"{entry[key]:g}" for key in ("bits_per_element", "key_bits", "value_bits"))
        rows.append((f"[`{name}`]({name}/README.md)", entry.get("base_model") or "", *bits, entry["recipe"]))
    name, entry = next(iter(sorted(entries.items())))
    parts = [
        f"---\n{card_data(entries, licence).to_yaml()}\n---",
        GENERATED,
        f"# {repo_id.rsplit('/', 1)[-1]}: VecInfer codebooks",
        "Each directory stores the key/value cache of a model as vector-quantization codes "
        "([VecInfer](https://arxiv.org/abs/2510.06175)).",
        table(rows, ("subfolder", "model", "bits per element", "keys", "values", "recipe")),
        "## How to use one",
        usage(entry.get("base_model") or "MODEL", repo_id, name),
    ]
    return "\n\n".join(parts) + "\n"


def usage(model: str, repo_id: str | None, subfolder: str | None) -> str:
    """Return the python block that generates with a codebook."""
    options = f'codebook="{repo_id or "path/to/this/directory"}"' + (f', subfolder="{subfolder}"' if subfolder else "")
    return f"""```bash
pip install vecinfer-hf
```

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
from vecinfer_hf import VecInferConfig

config = VecInferConfig({options})
tokenizer = AutoTokenizer.from_pretrained("{model}")
model = AutoModelForCausalLM.from_pretrained("{model}", dtype="auto", quantization_config=config)
inputs = tokenizer("The capital of France is", return_tensors="pt").to(model.device)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
```"""


def table(rows: Iterable[Sequence[Any]], header: Sequence[str]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def draw_errors(errors: Sequence[Mapping[str, Any]], path: Any) -> bool:
    """Draw the errors per layer to `path`; returns False, and draws nothing, where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    axes = (figure := Figure(figsize=(7, 3), layout="constrained")).subplots()
    for side in ("key", "value"):
        axes.plot([e["layer"] for e in errors], [e[side] for e in errors], marker="o", markersize=3, label=side + "s")
    axes.set(xlabel="layer", ylabel="relative error", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)
    return True


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value)
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def _mean_bits(codebook: Codebook, side: int) -> float:
    bits = [codebook.formats(index)[side].bits_per_element for index in codebook.layers]
    return round(sum(bits) / len(bits), 4)


def _sizes(codebook: Codebook) -> dict[str, Any]:
    identity = codebook.identity
    heads, head_dim = identity["num_key_value_heads"], identity["head_dim"]
    coded = sum(heads * bytes_per_tile(*codebook.formats(i), head_dim) / TILE for i in codebook.layers)
    stock = len(codebook.layers) * 2 * heads * head_dim * 2
    return {
        "bits per key element": _mean_bits(codebook, 0),
        "bits per value element": _mean_bits(codebook, 1),
        "code formats": sorted({f"{k.name}/{v.name}" for k, v in map(codebook.formats, codebook.layers)}),
        "quantized layers": f"{len(codebook.layers)} of {identity['num_hidden_layers']}",
        "bytes per coded token": f"{coded:g}",
        "bytes per token, bfloat16 cache": f"{stock} ({stock / coded:.2f} times as much)",
        "this codebook": f"{codebook.nbytes / 1e6:.2f} MB",
    }


def _quality(metrics: Mapping[str, Any]) -> list[str]:
    rows = metrics.get("quality") or []
    if isinstance(rows, Mapping):
        rows = [rows]
    parts = ["## Measured quality"]
    if rows:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        parts.append(
            table([[row.get(key) for key in columns] for row in rows], [c.replace("_", " ") for c in columns])
        )
    else:
        parts.append("Not measured. `vecinfer evaluate` measures perplexity through the real cache.")
    rest = {key.replace("_", " "): value for key, value in metrics.items() if key != "quality"}
    scalars = {key: value for key, value in rest.items() if not isinstance(value, (Mapping, list, tuple))}
    return [*parts, table(scalars.items(), ("", ""))] if scalars else parts


def _errors(provenance: Mapping[str, Any], with_plot: bool) -> list[str]:
    errors = provenance.get("errors") or []
    if not errors:
        return []
    parts = [
        "## Quantization error per layer",
        "Squared error of the calibration tokens, relative to their squared size.",
    ]
    if with_plot:
        parts.append(f"![error per layer]({ERROR_PLOT})")
    largest = max(max(e["key"], e["value"]) for e in errors) or 1.0
    rows = [
        (
            e["layer"],
            *(part for side in ("key", "value") for part in (e[side], "█" * round(_BAR_WIDTH * e[side] / largest))),
        )
        for e in errors
    ]
    return [*parts, table(rows, ("layer", "keys", "", "values", ""))]


def _origin(codebook: Codebook) -> dict[str, Any]:
    identity, config = codebook.identity, codebook.config
    facts = {
        "model": identity.get("name"),
        "model revision": identity.get("revision"),
        "model shape": f"{identity['model_type']}, {identity['num_hidden_layers']} layers, "
        f"{identity['num_key_value_heads']} key/value heads of {identity['head_dim']}",
        "recipe": config.recipe,
        "seed": config.seed,
    }
    for key, value in (codebook.provenance or {}).items():
        flat = _flat(value)
        if key not in ("errors", "license") and value is not None and len(str(flat)) <= _LONGEST_FACT:
            facts[key.replace("_", " ")] = flat
    return facts


def _flat(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_cell(_flat(item))}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(_cell(_flat(item)) for item in value)
    return value
