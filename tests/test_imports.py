# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The one-way arrows between the parts, and an import that only adds."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vecinfer_hf


PACKAGE = Path(vecinfer_hf.__file__).parent
# A file may import, when it is imported, only from ranks below its own.
RANKS = [
    {"formats", "version", "padding", "kmeans", "cache_name"},
    {"handle", "config", "packing", "transforms", "quantizer", "model_identity", "ops.types", "hub_errors"},
    {"codebook_files", "ops.blockwise", "ops.store"},
    {"codebook", "ops.reference", "full_precision_attention"},
    {"codebook_loading", "ops", "online_codebook"},
    {"layer"},
    {"static_layer", "attention"},
    {"cache"},
    {"registration", "hf_quantizer"},
]
ARROWS = {name: rank for rank, names in enumerate(RANKS) for name in names}
# registration registers the quantizer, so these two are in this order.
ARROWS["registration"] = len(RANKS)


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path):
    """Modules of the package that a file imports at module level, TYPE_CHECKING blocks left out."""
    name = module_name(path)
    here = name.split(".") if name else []
    if path.name != "__init__.py":
        here = here[:-1]
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            for alias in node.names:
                whole = base + (node.module.split(".") if node.module else [])
                if (PACKAGE.joinpath(*whole, alias.name + ".py")).exists():
                    whole = [*whole, alias.name]
                yield ".".join(whole)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(each.split(".")[0] == "vecinfer_hf" for each in names), f"{path}: use relative imports"


@pytest.mark.parametrize("name", sorted(ARROWS))
def test_arrows_point_one_way(name):
    path = PACKAGE.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for target in imports_of(path):
        if target in ARROWS:
            assert ARROWS[target] < ARROWS[name], f"{name} must not import {target}"


def test_no_file_of_the_core_imports_a_command():
    for name in ARROWS:
        path = PACKAGE.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for target in imports_of(path):
            assert target.split(".")[0] not in ("cli", "commands", "evaluation", "assets"), f"{name} imports {target}"


SNAPSHOT = """
import json, sys
import torch, transformers
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.generation import GenerationMixin, configuration_utils
from transformers.quantizers import auto
import transformers.generation.utils, transformers.cache_utils, transformers.modeling_utils

def state():
    spaces = {
        "GenerationMixin": vars(GenerationMixin),
        "configuration_utils": vars(configuration_utils),
        "generation.utils": vars(transformers.generation.utils),
        "cache_utils": vars(transformers.cache_utils),
        "PreTrainedModel": vars(transformers.PreTrainedModel),
        "GenerationConfig": vars(transformers.GenerationConfig),
        "DynamicCache": vars(transformers.DynamicCache),
        "torch": {name: value for name, value in vars(torch).items() if callable(value)},
        "attention": dict(AttentionInterface()._global_mapping),
        "masks": dict(AttentionMaskInterface()._global_mapping),
        "quantizers": auto.AUTO_QUANTIZER_MAPPING,
        "quantization configs": auto.AUTO_QUANTIZATION_CONFIG_MAPPING,
    }
    return {(space, name): id(value) for space, names in spaces.items() for name, value in names.items()}

before, threads, random = state(), torch.get_num_threads(), torch.get_rng_state()
keep = list(vars(configuration_utils).values()), list(vars(GenerationMixin).values())
import vecinfer_hf
after = state()
changed = sorted(map(list, {key for key in before if after.get(key) != before[key]}))
added = sorted(map(list, {key for key in after if key not in before}))
assert torch.equal(random, torch.get_rng_state()) and threads == torch.get_num_threads()
print(json.dumps([changed, added, sorted(name for name in sys.modules if name.startswith(("vecinfer_hf.cli.app",
    "vecinfer_hf.commands", "vecinfer_hf.assets", "typer", "gguf")))]))
"""


def test_importing_the_package_only_adds_its_own_entries():
    """Everything else in transformers is the same object as before."""
    import json

    done = subprocess.run([sys.executable, "-W", "error::DeprecationWarning:vecinfer_hf", "-c", SNAPSHOT],
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    changed, added, modules = json.loads(done.stdout.splitlines()[-1])
    assert changed == [
        ["GenerationMixin", "_prepare_cache_for_generation"],
        ["PreTrainedModel", "get_compiled_call"],
        ["configuration_utils", "ALL_CACHE_IMPLEMENTATIONS"],
    ]
    assert {tuple(entry) for entry in added if entry[0] not in ("generation.utils", "cache_utils")} == {
        ("attention", "vecinfer"),
        ("masks", "vecinfer"),
        ("quantizers", "vecinfer"),
        ("quantization configs", "vecinfer"),
    }
    assert not modules, "the command line is imported by the library"


def test_every_public_name_exists_and_is_documented():
    assert vecinfer_hf.__all__ == sorted(vecinfer_hf.__all__)
    for name in vecinfer_hf.__all__:
        value = getattr(vecinfer_hf, name)
        assert name == "__version__" or (value.__doc__ and len(value.__doc__) > 20)
