# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The order of the folders, and an import that only adds."""

import ast
import subprocess
import sys
from pathlib import Path

import vecinfer_hf


PACKAGE = Path(vecinfer_hf.__file__).parent
ORDER = [
    {"errors", "version"},
    {"quantization", "model_info"},
    {"distributed"},
    {"config", "calibration_config"},
    {"kernel_build"},
    {"ops"},
    {"codebook"},
    {"hub"},
    {"attention"},
    {"cache"},
    {"calibration"},
    {"integration"},
    {"evaluation"},
    {"cli"},
    {"__init__", "__main__"},
]
"""A file imports only from its own folder and from those before it; files at the top are folders of their own."""
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
TOLERATED = {
    ("calibration_config", "config"): "one mechanism stores both configs",
    ("config", "codebook.format_1"): "options that version 0.1 wrote",
    ("config", "hub.download"): "from_pretrained of a config on the Hub",
    ("config", "hub.push"): "push_to_hub of a config",
    ("codebook.codebook", "hub.card"): "save_pretrained writes the card",
    ("codebook.codebook", "hub.push"): "push_to_hub",
    ("codebook.locate", "hub.download"): "from_pretrained of a codebook on the Hub",
    ("calibration.own_text", "integration.compat"): "transformers' name for the cache argument",
    ("cache.cache", "integration.resolve"): "a cache takes the name of a codebook",
}
"""The lazy imports against the order, (file, module) -> why. One that is not needed any more fails a test."""


def files():
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "__init__"


def imports_of(path):
    """(module of the package that a file imports anywhere, whether only for type checkers or inside a function)."""
    name = module_name(path)
    here = [] if name == "__init__" else name.split(".")
    if path.name != "__init__.py":
        here = here[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            for alias in node.names:
                whole = base + (node.module.split(".") if node.module else [])
                target = PACKAGE.joinpath(*whole, alias.name)
                if target.with_suffix(".py").exists() or target.is_dir():
                    whole = [*whole, alias.name]
                if id(node) not in typing:
                    yield ".".join(whole) or "__init__", id(node) in top
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(each.split(".")[0] == "vecinfer_hf" for each in names), f"{path}: use relative imports"


def rank(module):
    return RANK[module.split(".")[0]]


def against_the_order():
    """(file, module) of every import to the right, or within one rank to another folder."""
    for path in files():
        name = module_name(path)
        for target, _ in imports_of(path):
            if target.split(".")[0] != name.split(".")[0] and rank(target) >= rank(name):
                yield name, target


def test_every_file_has_a_place_in_the_order():
    assert {module_name(path).split(".")[0] for path in files()} == set(RANK)


def test_imports_follow_the_order():
    found = set(against_the_order())
    assert found - set(TOLERATED) == set(), "imports against the order"
    assert set(TOLERATED) - found == set(), "tolerated imports that do not exist"


def test_tolerated_imports_are_lazy():
    for path in files():
        for target, at_top in imports_of(path):
            if (module_name(path), target) in TOLERATED and target.split(".")[0] not in ("config",):
                assert not at_top, f"{path} imports {target} when it is imported"


def test_no_cycles():
    graph = {module_name(path): {target for target, at_top in imports_of(path) if at_top} for path in files()}
    done, under_way = set(), []

    def visit(name):
        if name in done:
            return
        assert name not in under_way, f"cycle: {' -> '.join([*under_way[under_way.index(name) :], name])}"
        under_way.append(name)
        for target in sorted(graph.get(name, ())):
            visit(target)
        done.add(under_way.pop())

    for name in sorted(graph):
        visit(name)


def test_files_are_small():
    lengths = {module_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files()}
    assert {name: length for name, length in lengths.items() if length > 300} == {}
    beside = [path.name for path in PACKAGE.iterdir() if path.is_file()]
    assert len(beside) <= 8, beside


def test_importing_the_cache_imports_neither_calibration_nor_the_command_line():
    code = """import sys, vecinfer_hf.cache.cache
unwanted = ("vecinfer_hf.calibration.", "vecinfer_hf.cli", "rich", "typer")
print([name for name in sys.modules if name.startswith(unwanted)])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


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
unwanted = ("vecinfer_hf.cli", "typer", "gguf")
print(json.dumps([changed, added, sorted(name for name in sys.modules if name.startswith(unwanted))]))
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
        ["GenerationMixin", "_update_model_kwargs_for_generation"],
        ["GenerationMixin", "_valid_auto_compile_criteria"],
        ["GenerationMixin", "generate"],
        ["GenerationMixin", "prepare_inputs_for_generation"],
        ["PreTrainedModel", "get_compiled_call"],
        ["PreTrainedModel", "save_pretrained"],
        ["configuration_utils", "ALL_CACHE_IMPLEMENTATIONS"],
    ]
    assert {tuple(entry) for entry in added if entry[0] not in ("generation.utils", "cache_utils")} == {
        ("GenerationMixin", "init_continuous_batching"),
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
