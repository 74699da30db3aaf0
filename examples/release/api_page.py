# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Write API.md from the docstrings of the public names; `make api` runs it."""

import inspect
import re
import textwrap
from pathlib import Path
from types import FunctionType

import vecinfer_hf
import vecinfer_hf.evaluation
import vecinfer_hf.hub


PAGE = Path(__file__).resolve().parents[2] / "API.md"
SECTIONS = {
    "Generate on codes": (
        vecinfer_hf,
        ["enable", "disable", "enabled", "VecInferConfig", "VecInferCache", "Context", "supported"],
    ),
    "Codebooks": (
        vecinfer_hf,
        ["Codebook", "calibrate", "CalibrationConfig", "make_codebook", "find_codebooks", "forget_codebooks"],
    ),
    "Measure": (vecinfer_hf.evaluation, sorted(vecinfer_hf.evaluation.__all__, key=str.lower)),
    "Hub": (vecinfer_hf.hub, sorted(vecinfer_hf.hub.__all__, key=str.lower)),
    "Errors": (vecinfer_hf, sorted(name for name in vecinfer_hf.__all__ if name.endswith("Error"))),
}
HEAD = """# API

Written by `make api` from the docstrings; edit those. Errors and their remedies are in [ERRORS.md](ERRORS.md).
"""


def signature(name: str, function) -> str:
    """Return a signature as a Python block: on one line if it fits into 100 characters, else one parameter a line."""
    found = inspect.signature(function)
    parameters = [re.sub(r": '(.*?)'", r": \1", str(parameter)) for parameter in found.parameters.values()]
    kinds = [parameter.kind for parameter in found.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    parameters = [part for part in parameters if part not in ("self", "cls")]
    returned = inspect.formatannotation(found.return_annotation).strip("'")
    end = "" if found.return_annotation in (found.empty, None, "None") else f" -> {returned}"
    line = f"{name}({', '.join(parameters)}){end}"
    if len(line) > 100:
        line = f"{name}(\n" + "".join(f"    {part},\n" for part in parameters) + f"){end}"
    return f"```python\n{line}\n```\n"


def prose(docstring: str) -> str:
    """Return a docstring as Markdown: a section such as `Args:` becomes a list, all else stays as it is."""
    pieces = re.split(
        r"^(Args|Returns|Yields|Raises):\n((?:(?:    .*)?\n)+)", inspect.cleandoc(docstring) + "\n", flags=re.M
    )
    text = [pieces[0].strip()]
    for title, body, rest in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        body = re.sub(r"\n {2,}", " ", textwrap.dedent(body).strip())
        if title in ("Args", "Raises"):
            body = "\n" + re.sub(r"^(\*{0,2}\w[^:\n]*?):", _item, body, flags=re.MULTILINE)
        text += [body.strip() if title == "Args" else f"{title}: {body}".replace(": \n", ":\n"), rest.strip()]
    return "\n\n".join(part for part in text if part) + "\n"


def _item(found: re.Match) -> str:
    """Return `- name, other (remark):` with each name as code and the remark as it is."""
    return "- " + re.sub(r"(?<![\w(])(\w+)(?=,|$| \()", r"`\1`", found[1]) + ":"


def entry(name: str, value, level: int = 3) -> str:
    """Return the part of the page about one public name, with the public methods of a class."""
    text = f"{'#' * level} {name}\n\n"
    if callable(value) and not (inspect.isclass(value) and issubclass(value, Exception)):
        text += signature(name, value) + "\n"
    text += prose(value.__doc__ or "")
    for own, member in sorted(members(value).items()) if inspect.isclass(value) else ():
        text += "\n" + entry(f"{name}.{own}", member, level + 1)
    return text


def members(owner: type) -> dict[str, object]:
    """Return the public methods and properties with a docstring that a class has from this package."""
    found: dict[str, object] = {}
    for base in reversed(owner.__mro__):
        if base.__module__.startswith("vecinfer_hf"):
            found |= vars(base)
    kept = {name: getattr(value, "__func__", value) for name, value in found.items() if not name.startswith("_")}
    return {
        name: value for name, value in kept.items() if isinstance(value, (FunctionType, property)) and value.__doc__
    }


def page() -> str:
    """Return the content of API.md."""
    parts = [HEAD]
    for title, (module, names) in SECTIONS.items():
        where = "" if module is vecinfer_hf else f"\nFrom `{module.__name__}`.\n"
        parts += [f"## {title}\n{where}", *(entry(name, getattr(module, name)) for name in names)]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
