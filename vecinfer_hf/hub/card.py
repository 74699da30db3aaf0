# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The README.md of a codebook: what the Hub shows, written from the codebook itself.

Owns the text; metadata.py owns the metadata above it. It measures nothing: every number comes from the codebook's
provenance and metrics. Anybody may have written those: what has another form than expected is left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..codebook.saving import GENERATED
from ..model_info import HeadShape
from .metadata import base_model_id, card_data, describe, licence_of


if TYPE_CHECKING:
    from ..codebook.codebook import Codebook


ERROR_PLOT = "error_per_layer.png"
_BAR_WIDTH = 24
_LONGEST_FACT = 400
"""Characters; longer ones (measurements per layer) stay in config.json."""


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
    data = card_data({subfolder or "": describe(codebook)}, licence or licence_of(codebook))
    model = base_model_id(codebook.identity.name) or codebook.identity.name or "MODEL"
    parts = [
        f"---\n{data.to_yaml()}\n---",
        GENERATED,
        f"# {_cell(model.rstrip('/').rsplit('/', 1)[-1])}: {codebook.bits_per_element:g}-bit VecInfer codebook",
        f"Stores the key/value cache of `{_cell(model).replace('`', '')}` as vector-quantization codes "
        "([VecInfer](https://arxiv.org/abs/2510.06175)). The model's weights are untouched. "
        "Made with [vecinfer_hf](https://pypi.org/project/vecinfer-hf/).",
        "## How to use it",
        usage(model, repo_id, subfolder),
        "## Sizes",
        table(_sizes(codebook).items(), ("", "")),
        *_quality(codebook.metrics),
        *_errors(codebook, with_plot),
        "## How it was made",
        table(_options(codebook).items(), ("CalibrationConfig", "")),
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
    # Repositories and their folders have harmless names; a model's directory may have any.
    name = json.dumps(model.replace("`", ""), ensure_ascii=False)
    return f"""```bash
pip install vecinfer-hf
```

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
from vecinfer_hf import VecInferConfig

config = VecInferConfig({options})
tokenizer = AutoTokenizer.from_pretrained({name})
model = AutoModelForCausalLM.from_pretrained({name}, dtype="auto", quantization_config=config)
inputs = tokenizer("The capital of France is", return_tensors="pt").to(model.device)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
```"""


def table(rows: Iterable[Sequence[Any]], header: Sequence[str]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def draw_errors(codebook: Codebook, path: Any) -> bool:
    """Draw the errors per layer to `path`; returns False, and draws nothing, without errors or without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    errors = codebook.errors
    if not errors:
        return False
    axes = (figure := Figure(figsize=(7, 3), layout="constrained")).subplots()
    layers = [error.layer for error in errors]
    axes.plot(layers, [error.key for error in errors], marker="o", markersize=3, label="keys")
    axes.plot(layers, [error.value for error in errors], marker="o", markersize=3, label="values")
    axes.set(xlabel="layer", ylabel="relative error", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)
    return True


def _cell(value: Any) -> str:
    """Return one line of text that stays inside a table's cell."""
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value)
    if value is None:
        return ""
    return " ".join(str(value).split()).replace("|", "\\|").encode("utf-8", "replace").decode()


def _sizes(codebook: Codebook) -> dict[str, Any]:
    bits, coded = codebook.mean_bits, codebook.bytes_per_token
    shapes = codebook.identity.layers.values()
    default = sum(shape.num_key_value_heads * (shape.key_head_dim + shape.value_head_dim) * 2 for shape in shapes)
    return {
        "bits per key element": round(bits.key_bits, 4),
        "bits per value element": round(bits.value_bits, 4),
        "code formats": sorted({f"{k.name}/{v.name}" for k, v in map(codebook.formats, codebook.layers)}),
        "quantized layers": f"{len(codebook.layers)} of {codebook.identity.num_hidden_layers}",
        "bytes per coded token": f"{coded:g}",
        "bytes per token, bfloat16 cache": f"{default} ({default / coded:.2f} times as much)",
        "this codebook": f"{codebook.nbytes / 1e6:.2f} MB",
    }


def _quality(metrics: Mapping[str, Any]) -> list[str]:
    found = metrics.get("quality")
    rows = [row for row in (found if isinstance(found, list) else [found]) if isinstance(row, Mapping) and row]
    parts = ["## Measured quality"]
    if rows:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[_flat(row.get(key)) for key in columns] for row in rows]
        parts.append(table(cells, [column.replace("_", " ") for column in columns]))
    else:
        parts.append("Not measured. `vecinfer evaluate` measures perplexity through the real cache.")
    facts = _facts({key: value for key, value in metrics.items() if key != "quality"})
    return [*parts, table(facts.items(), ("", ""))] if facts else parts


def _errors(codebook: Codebook, with_plot: bool) -> list[str]:
    errors = codebook.errors
    if not errors:
        return []
    parts = [
        "## Quantization error per layer",
        "Squared error of the calibration tokens, relative to their squared size.",
    ]
    if with_plot:
        parts.append(f"![error per layer]({ERROR_PLOT})")
    largest = max(max(error.key, error.value) for error in errors) or 1.0

    def bar(error: float) -> str:
        return "█" * round(_BAR_WIDTH * error / largest)

    rows = [(layer, key, bar(key), value, bar(value)) for layer, key, value in errors]
    return [*parts, table(rows, ("layer", "keys", "", "values", ""))]


def _options(codebook: Codebook) -> dict[str, Any]:
    """The options that differ from their defaults."""
    options = codebook.config.to_diff_dict()
    layer_bits = options.pop("layer_bits", None)
    if layer_bits is not None:
        options["layer_bits"] = "; ".join(_cell(pair) for pair in layer_bits)
    return options or {"(all options)": "default"}


def _origin(codebook: Codebook) -> dict[str, Any]:
    identity = codebook.identity
    heads = [
        f"{_heads(shape)} ({count} layers)" if count < len(identity.layers) else _heads(shape)
        for shape, count in Counter(identity.layers.values()).items()
    ]
    own = {key: value for key, value in codebook.provenance.items() if key not in ("errors", "license")}
    return {
        "model": identity.name,
        "model revision": identity.revision,
        "model shape": f"{identity.model_type}, {identity.num_hidden_layers} layers, {'; '.join(heads)}",
        **_facts(own),
    }


def _heads(shape: HeadShape) -> str:
    key, value = shape.key_head_dim, shape.value_head_dim
    return f"{shape.num_key_value_heads} key/value heads of {key if key == value else f'{key} (keys) and {value}'}"


def _facts(found: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> value, in words, of what is short enough for a table."""
    facts = {key.replace("_", " "): _flat(value) for key, value in found.items() if value not in (None, [], {})}
    return {key: value for key, value in facts.items() if len(str(value)) <= _LONGEST_FACT}


def _flat(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_cell(_flat(item))}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(_cell(_flat(item)) for item in value)
    return value
