# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Publish the built variants of a kernel to its repository on the Hub, and check published builds against the source.

    python hub_kernels/publish_kernels.py                 # says what would be uploaded; uploads nothing
    python hub_kernels/publish_kernels.py --upload        # one commit on the branch v<version>, named in kernels.lock
    python hub_kernels/publish_kernels.py --check         # is what is published built from this source, and intact?

Owns what may be published. Building is kernel-builder's (releases) or build_local.py's (development); hashes and
digests are those of vecinfer_hf/kernel_build.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RevisionNotFoundError


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vecinfer_hf.kernel_build.sources import digest, read_config, source_id  # noqa: E402


LOCK = Path(__file__).resolve().parent.parent / "vecinfer_hf" / "kernels.lock"
"""Which commit of which kernel repository the package was released with: code is run from there and nowhere else."""
KERNEL = Path(__file__).resolve().parent / "vecinfer-attention"
NEWEST_GLIBC = (2, 28)
"""The hub's builds run on manylinux_2_28; a library that asks for more does not load there."""


def variants(build: Path) -> list[Path]:
    """Return the built variants in a `build` directory."""
    return sorted(path.parent for path in build.glob("*/metadata.json"))


def problems(variant: Path, kernel: Path, config: dict) -> list[str]:
    """Return what is wrong with a build: not of this version or source, or changed since it was built."""
    try:
        metadata = json.loads((variant / "metadata.json").read_text())
    except (OSError, ValueError) as error:
        return [f"metadata.json cannot be read ({error})"]
    expected_id = source_id(kernel, metadata.get("backend", {}).get("type", "cuda"))
    found = []
    for key in ("name", "version", "license"):
        if metadata.get(key) != config["general"][key]:
            found.append(f"{key} is {metadata.get(key)!r}, build.toml says {config['general'][key]!r}")
    if not str(metadata.get("id", "")).endswith(f"_{expected_id}"):
        found.append(
            f"it was built from another source: its id is {metadata.get('id')!r}, this source is {expected_id}"
        )
    recorded = metadata.get("digest")
    if recorded is None:
        found.append("metadata.json records no digest")
    elif recorded != (actual := digest(variant)):
        names = {*recorded.get("files", {}), *actual["files"]}
        changed = sorted(n for n in names if recorded.get("files", {}).get(n) != actual["files"].get(n))
        found.append(f"files differ from the recorded digest: {', '.join(changed) or 'another algorithm'}")
    return found


def newest_glibc(paths: Iterable[Path]) -> tuple[int, int]:
    """Return the newest glibc version that the shared libraries ask for."""
    asked = [(0, 0)]
    for path in paths:
        asked += [(int(a), int(b)) for a, b in re.findall(rb"GLIBC_(\d+)\.(\d+)", path.read_bytes())]
    return max(asked)


def plan(kernel: Path) -> dict[str, Path]:
    """Return path in the repository -> local file of everything that is published."""
    files = {}
    for variant in variants(kernel / "build"):
        for path in sorted(variant.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                files[f"build/{variant.name}/{path.relative_to(variant).as_posix()}"] = path
    if files and (kernel / "CARD.md").is_file():
        files["README.md"] = kernel / "CARD.md"
    return files


def upload(api: HfApi, repo_id: str, branch: str, files: dict[str, Path], message: str) -> str:
    """Commit `files` to `branch`, removing what is left of earlier builds of the same variants; return the commit."""
    api.create_repo(repo_id, repo_type="kernel", exist_ok=True)
    api.create_branch(repo_id, branch=branch, repo_type="kernel", exist_ok=True)
    replaced = {"/".join(name.split("/")[:2]) + "/" for name in files if name.startswith("build/")}
    present = [
        entry.path for entry in api.list_repo_tree(repo_id, recursive=True, revision=branch, repo_type="kernel")
    ]
    stale = [name for name in present if name not in files and any(name.startswith(v) and name != v for v in replaced)]
    folders = {name for name in present if any(other.startswith(name + "/") for other in present)}
    operations = [CommitOperationDelete(name) for name in stale if name not in folders]
    operations += [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    commit = api.create_commit(repo_id, operations, commit_message=message, repo_type="kernel", revision=branch)
    return commit.oid


def write_lock(path: Path, repo_id: str, version: int, commit: str) -> None:
    """Write the commit into a `kernels.lock`, beside the entries of other repositories."""
    entries = json.loads(path.read_text()) if path.is_file() else []
    dependency = {"repo-id": repo_id, "version": version}
    kept = [entry for entry in entries if entry["dependency"] != dependency]
    path.write_text(json.dumps([*kept, {"dependency": dependency, "lock": {"commit": commit}}], indent=2) + "\n")


def check(api: HfApi, kernel: Path, repo_id: str, branch: str) -> int:
    """Print whether every published variant is intact and built from this source; return the number that is not."""
    config, bad = read_config(kernel), 0
    with tempfile.TemporaryDirectory() as temporary:
        try:
            api.snapshot_download(
                repo_id, repo_type="kernel", revision=branch, allow_patterns=["build/*"], local_dir=temporary
            )
        except RevisionNotFoundError:
            raise SystemExit(f"{repo_id} has no branch {branch}: nothing of this version is published.") from None
        published = variants(Path(temporary) / "build")
        for variant in published:
            found = problems(variant, kernel, config)
            print(f"{variant.name}: {'; '.join(found) or 'intact, built from this source'}")
            bad += bool(found)
        if not published:
            raise SystemExit(f"{repo_id} has no builds on {branch}.")
    return bad


def main(argv: list[str] | None = None) -> int:
    """Publish or check; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", type=Path, default=KERNEL, help="directory with build.toml and build/")
    parser.add_argument("--repo-id", help="kernel repository; default: the one in build.toml")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--upload", action="store_true", help="really upload")
    action.add_argument("--check", action="store_true", help="compare what is published with this source")
    parser.add_argument(
        "--any-glibc", action="store_true", help=f"allow builds that need more than glibc {NEWEST_GLIBC}"
    )
    parser.add_argument("--lock", type=Path, default=LOCK, help="kernels.lock that an upload is written into")
    options = parser.parse_args(argv)

    config = read_config(options.kernel)
    repo_id = options.repo_id or config["general"]["hub"]["repo-id"]
    branch = f"v{config['general']['version']}"
    api = HfApi(library_name="vecinfer")
    if options.check:
        return min(check(api, options.kernel, repo_id, branch), 1)

    files = plan(options.kernel)
    if not files:
        raise SystemExit(f"{options.kernel / 'build'} holds no built variant; run `make kernels` first.")
    bad = False
    for variant in variants(options.kernel / "build"):
        found = problems(variant, options.kernel, config)
        glibc = newest_glibc(variant.rglob("*.so"))
        if glibc > NEWEST_GLIBC and not options.any_glibc:
            needs, allows = (".".join(map(str, version)) for version in (glibc, NEWEST_GLIBC))
            found.append(
                f"it needs glibc {needs}, the hub's builds run on {allows}: build it with kernel-builder, or pass "
                "--any-glibc for a repository of your own"
            )
        print(f"{variant.name}: {'; '.join(found) or 'ready'}")
        bad |= bool(found)
    for name, path in files.items():
        print(f"  {name} ({path.stat().st_size} bytes)")
    if bad:
        print("Not published: see above.", file=sys.stderr)
        return 1
    if not options.upload:
        print(f"Dry run: {len(files)} files would go to {repo_id}, branch {branch}. Publish with --upload.")
        return 0
    built = sorted({name.split("/")[1] for name in files if name.startswith("build/")})
    commit = upload(api, repo_id, branch, files, f"Build {', '.join(built)}")
    write_lock(options.lock, repo_id, config["general"]["version"], commit)
    print(f"Published to {repo_id}, branch {branch}, commit {commit}; {options.lock} names it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
