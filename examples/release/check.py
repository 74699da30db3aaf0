# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Check what `make release` built: links of the description, and that each file installs and generates.

    python -m examples.release.check dist --torch "torch==2.13.0"

Each file is installed into a virtual environment of its own, with all its dependencies and nothing else.
"""

import argparse
import email
import email.message
import os
import re
import subprocess
import tempfile
import venv
import zipfile
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)\s]+)\)")
GENERATE = """
import torch, transformers, vecinfer_hf
torch.manual_seed(0)
config = transformers.LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16, bos_token_id=1, eos_token_id=None)
model = vecinfer_hf.enable(transformers.LlamaForCausalLM(config).eval(), "online", residual_length=8)
ids = torch.randint(2, 64, (1, 200))
assert model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False).shape == (1, 204)
print(f"generated on codes with {vecinfer_hf.__file__}")
"""


def metadata(wheel: Path) -> email.message.Message:
    """Return the fields of a wheel's METADATA; the description is the payload."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_string(archive.read(name).decode("utf-8"))


def wrong_links(fields: email.message.Message) -> list[str]:
    """Return the links of a description that a package index cannot follow, and those to no file of the repository."""
    urls = dict(entry.split(", ", 1) for entry in fields.get_all("Project-URL", []))
    address = urls["Repository"]
    raw = address.replace("github.com", "raw.githubusercontent.com")
    wrong = []
    for target in LINK.findall(fields.get_payload()):
        ours = next((base for base in (f"{address}/blob/main/", f"{raw}/main/") if target.startswith(base)), None)
        if ours is not None:
            wrong += [] if (ROOT / target.removeprefix(ours).partition("#")[0]).is_file() else [target]
        elif not target.startswith(("https://", "#")):
            wrong.append(target)
    return wrong


def install_and_generate(file: Path, torch: str) -> None:
    """Install a wheel or sdist into a new environment and generate with it there; CalledProcessError if that fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        programs = Path(folder, "Scripts" if os.name == "nt" else "bin")
        python = str(programs / "python")
        for packages in ([torch] if torch else [], [str(file.resolve())]):
            if packages:
                subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, cwd=folder)
        for command in ([str(programs / "vecinfer"), "--version"], [python, "-c", GENERATE]):
            subprocess.run(command, check=True, cwd=folder, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where the wheel and the sdist lie")
    parser.add_argument("--torch", default="", help="requirement of the torch to install first; default: any")
    arguments = parser.parse_args()
    (wheel,), (sdist,) = arguments.directory.glob("*.whl"), arguments.directory.glob("*.tar.gz")
    wrong = wrong_links(metadata(wheel))
    if wrong:
        parser.exit(1, f"{wheel.name} has links that lead nowhere on a package index: {', '.join(wrong)}\n")
    for file in (wheel, sdist):
        print(f"{file.name}: {file.stat().st_size:,} bytes", flush=True)
        install_and_generate(file, arguments.torch)


if __name__ == "__main__":
    main()
