# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Kernels through a kernel repository: published, checked against their source, fetched, used without a network."""

import contextlib
import io
import json
import os
import shutil
import sys

import huggingface_hub
import pytest
import torch
from hub_process import ROOT, run_fresh
from hub_store import File
from kernel_stand_in import make_kernel
from tiny_models import tiny_inputs, tiny_model

from vecinfer_hf import VecInferConfig, calibrate
from vecinfer_hf.ops.kernel_hub import fetch_kernel, locked_commit


sys.path.insert(0, str(ROOT / "hub_kernels"))
import publish_kernels


pytest_plugins = ["hub_fixtures"]
pytestmark = [
    pytest.mark.hub,
    pytest.mark.skipif(
        huggingface_hub.__version__ < "2", reason="huggingface_hub 1.x cannot write kernel repositories"
    ),
]
REPO = "org/stand-in"


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "kernels.lock"


@pytest.fixture
def publish(hub, warm, token, lock):
    """Run the publishing script in another process: (exit status, what it printed)."""

    def run(*arguments, token=token):
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT / 'hub_kernels')!r}); import publish_kernels\n"
            f"sys.exit(publish_kernels.main({[*map(str, arguments), '--lock', str(lock)]!r}))"
        )
        done = warm.run(code, HF_TOKEN=token)
        return done.code, done.stdout + done.stderr

    yield run
    hub.store.repositories.pop(("kernel", REPO), None)


@pytest.fixture
def kernel(tmp_path):
    return make_kernel(tmp_path / "kernel", answer=3)


def repository(hub):
    return hub.store.repositories["kernel", REPO]


def test_a_dry_run_writes_nothing(hub, publish, kernel, lock):
    status, text = publish("--kernel", kernel)
    assert status == 0
    assert f"would go to {REPO}, branch v1" in text
    assert "build/torch-cpu/metadata.json" in text
    assert hub.requests == []
    assert not lock.exists()


def test_published_builds_equal_their_source(hub, publish, kernel):
    assert publish("--kernel", kernel, "--upload")[0] == 0
    assert repository(hub).resolve("v1") != repository(hub).resolve("main")  # only the version's branch has it
    status, text = publish("--kernel", kernel, "--check")
    assert (status, text.count("intact, built from this source")) == (0, 2)
    # Somebody changes a file of the repository.
    files = dict(repository(hub).commits[repository(hub).resolve("v1")].files)
    files["build/torch-cpu/__init__.py"] = File(b"import os")
    repository(hub).commit("refs/heads/v1", files, "something else", "owner")
    status, text = publish("--kernel", kernel, "--check")
    assert status == 1
    assert "torch-cpu: files differ from the recorded digest: __init__.py" in text
    assert "torch-cuda: intact" in text
    # The source moves on, the published build does not.
    (kernel / "torch-ext" / "binding.cpp").write_text("// another source\n")
    status, text = publish("--kernel", kernel, "--check")
    assert status == 1
    assert text.count("it was built from another source") == 2


def test_stale_and_changed_builds_are_not_published(hub, publish, kernel):
    good = (kernel / "torch-ext" / "binding.cpp").read_text()
    (kernel / "torch-ext" / "binding.cpp").write_text("// edited after the build\n")
    status, text = publish("--kernel", kernel, "--upload")
    assert (status, "built from another source" in text) == (1, True)
    (kernel / "torch-ext" / "binding.cpp").write_text(good)
    (kernel / "build" / "torch-cpu" / "_ops.py").write_text("# edited in place\n")
    status, text = publish("--kernel", kernel, "--upload")
    assert (status, "recorded digest: _ops.py" in text) == (1, True)
    assert hub.requests == []


def test_a_library_for_a_newer_glibc_is_not_published(hub, publish, kernel):
    library = kernel / "build" / "torch-cpu" / "library.so"
    library.write_bytes(b"...GLIBC_2.5...GLIBC_2.34...")
    metadata = json.loads((library.parent / "metadata.json").read_text())
    metadata["digest"] = publish_kernels.digest(library.parent)
    (library.parent / "metadata.json").write_text(json.dumps(metadata))
    status, text = publish("--kernel", kernel, "--upload")
    assert (status, "it needs glibc 2.34" in text, hub.requests) == (1, True, [])
    assert publish("--kernel", kernel, "--upload", "--any-glibc")[0] == 0


def test_a_new_build_replaces_the_old_one(hub, publish, kernel):
    publish("--kernel", kernel, "--upload")
    before = set(repository(hub).commits[repository(hub).resolve("v1")].files)
    assert publish("--kernel", make_kernel(kernel, answer=5), "--upload")[0] == 0
    after = set(repository(hub).commits[repository(hub).resolve("v1")].files)
    assert len(after) == len(before)
    assert len([name for name in after - before if name.endswith(".txt")]) == 2


def test_without_the_right_to_write(publish, kernel):
    status, text = publish("--kernel", kernel, "--upload", token="")
    assert status != 0
    assert "401" in text


def test_nothing_built_and_nothing_published(publish, kernel, tmp_path):
    status, text = publish("--kernel", kernel, "--check")
    assert status != 0
    (kernel / "build").rename(tmp_path / "gone")
    assert "make kernels" in publish("--kernel", kernel)[1]


_FETCH = """
import json, torch, kernels
from huggingface_hub import constants
from vecinfer_hf.ops.kernel_hub import fetch_kernel

def attempt(call):
    try:
        module = call()
    except Exception as error:
        return {{"error": type(error).__name__ + ": " + str(error)}}
    return {{"answer": float(module.scale(torch.ones(1))), "file": module.__file__}}

bare = attempt(lambda: kernels.get_kernel("org/stand-in", version=1, trust_remote_code={trust}))
ours = attempt(lambda: fetch_kernel("org/stand-in", 1))
print(json.dumps({{"bare": bare, "ours": ours}}))
"""


def fetch(cold, home, *, trust=False, **env):
    return cold.run(_FETCH.format(trust=trust), HF_TOKEN="", HF_HOME=str(home), **env).result


def test_fetched_in_a_fresh_process_and_again_offline(hub, cold, publish, kernel, tmp_path):
    publish("--kernel", kernel, "--upload")
    commit = repository(hub).resolve("v1")
    online = fetch(cold, tmp_path / "home")
    assert "not from a trusted publisher" in online["bare"]["error"]  # trust is not given by accident
    assert online["ours"]["answer"] == 3
    ours, other = ("torch-cuda", "torch-cpu") if torch.version.cuda else ("torch-cpu", "torch-cuda")
    assert f"snapshots/{commit}/build/{ours}" in online["ours"]["file"]
    assert not [path for path in hub.paths("GET") if "resolve" in path and f"{other}/_" in path]
    hub.requests.clear()
    offline = fetch(cold, tmp_path / "home", trust=True, HF_HUB_OFFLINE="1")
    assert "error" in offline["bare"]  # what fetch_kernel is there for
    assert offline["ours"] == online["ours"]
    assert hub.requests == []


def test_without_telemetry(cold, publish, kernel, tmp_path):
    publish("--kernel", kernel, "--upload")
    found = fetch(cold, tmp_path / "home", trust=True, HF_HUB_DISABLE_TELEMETRY="1")
    assert (
        "Illegal header value" in found["bare"]["error"]
    )  # if this fails, the library has mended it: drop the detour
    assert found["ours"]["answer"] == 3


def test_a_lock_file_pins_the_commit(hub, publish, kernel, warm, lock, tmp_path):
    other = {"dependency": {"repo-id": "org/other", "version": 3}, "lock": {"commit": "0" * 40}}
    lock.write_text(json.dumps([other]))
    publish("--kernel", kernel, "--upload")
    commit = repository(hub).resolve("v1")
    released = json.loads(lock.read_text())
    assert released == [other, {"dependency": {"repo-id": REPO, "version": 1}, "lock": {"commit": commit}}]
    publish("--kernel", make_kernel(kernel, answer=5), "--upload")
    assert [entry["lock"]["commit"] for entry in json.loads(lock.read_text())] == [
        "0" * 40,
        repository(hub).resolve("v1"),
    ]
    lock.write_text(json.dumps(released))
    hub.store.trusted_kernel_publishers.add("org")
    code = (
        "import json, torch, kernels; from pathlib import Path; from vecinfer_hf.ops.kernel_hub import fetch_kernel\n"
        f"locked = fetch_kernel({REPO!r}, 1, lockfile={str(lock)!r})\n"
        f"theirs = kernels.get_locked_kernel({REPO!r}, lockfile=Path({str(lock)!r}))\n"
        f"newest = fetch_kernel({REPO!r}, 1)\n"
        "print(json.dumps([float(m.scale(torch.ones(1))) for m in (locked, theirs, newest)]))"
    )
    done = warm.run(code, HF_TOKEN="", KERNELS_CACHE=str(tmp_path / "kernels"))
    hub.store.trusted_kernel_publishers.clear()
    assert done.result == [3, 3, 5]


def test_offline_with_nothing_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for lockfile in (None, tmp_path / "kernels.lock"):
        if lockfile is not None:
            entry = {"dependency": {"repo-id": REPO, "version": 1}, "lock": {"commit": "0" * 40}}
            lockfile.write_text(json.dumps([entry]))
        with pytest.raises(FileNotFoundError, match="load them once while online"):
            fetch_kernel(REPO, 1, lockfile=lockfile)


@pytest.mark.parametrize("text", ["{", "[]", '[{"dependency": {}}]', '[{"dependency": {"repo-id": "org/other"}}]'])
def test_lock_files_that_do_not_lock(text, tmp_path):
    (tmp_path / "kernels.lock").write_text(text)
    with pytest.raises(ValueError, match="kernels lock"):
        locked_commit(REPO, 1, tmp_path / "kernels.lock")


def test_the_hub_being_down_leaves_the_cached_build(hub, publish, kernel, warm, tmp_path):
    publish("--kernel", kernel, "--upload")
    code = f"from vecinfer_hf.ops.kernel_hub import fetch_kernel; print(fetch_kernel({REPO!r}, 1).ANSWER)"
    assert warm.run(code, KERNELS_CACHE=str(tmp_path)).stdout == "3\n"
    down = hub.fault(f"GET /api/kernels/{REPO}", times=99, status=503)
    assert warm.run(code, KERNELS_CACHE=str(tmp_path)).stdout == "3\n"
    assert down.hits > 0
    assert "503" in warm.run(code, KERNELS_CACHE=str(tmp_path / "empty")).stderr


def test_what_build_toml_promises_is_what_is_planned():
    kernel = ROOT / "hub_kernels" / "vecinfer-attention"
    if not (kernel / "build").is_dir():
        pytest.skip("no kernel has been built here")
    with contextlib.redirect_stdout(io.StringIO()):
        files = publish_kernels.plan(kernel)
    assert {name.split("/")[2] for name in files if name.startswith("build/")} >= {"metadata.json", "__init__.py"}
    assert not [name for name in files if name.endswith((".pyc", ".o"))]


_GENERATE = """
import json, torch, vecinfer_hf
from tiny_models import tiny_inputs, tiny_model
from vecinfer_hf.ops import kernels

model = tiny_model(head_dim=64, dtype=torch.bfloat16).cuda()
codebook = vecinfer_hf.Codebook.from_pretrained({codebook!r})
vecinfer_hf.enable(model, codebook, residual_length=16, ops_backend="cuda")
out = model.generate(tiny_inputs(1, 40).cuda(), max_new_tokens=40, do_sample=False)
print(json.dumps({{"tokens": out[0].tolist(), "file": kernels.load_kernels().__file__}}))
"""


@pytest.mark.gpu
def test_generate_with_the_kernels_of_the_hub(hub, publish, lock, tmp_path):
    kernel, repo = ROOT / "hub_kernels" / "vecinfer-attention", "vecinfer/vecinfer-attention"
    status, text = publish("--kernel", kernel, "--any-glibc")
    if status:
        pytest.skip(f"no build of this source: {text}")
    token = hub.store.add_user("publisher", organizations=["vecinfer"])
    assert publish("--kernel", kernel, "--any-glibc", "--upload", token=token)[0] == 0
    commit = hub.store.repositories["kernel", repo].resolve("v1")
    codebook = calibrate(tiny_model(head_dim=64), tiny_inputs(8, 256), config=VecInferConfig(sequence_length=256))
    codebook.save_pretrained(tmp_path / "codebook")
    # The package without the build that lies beside it in this checkout.
    shutil.copytree(ROOT / "vecinfer_hf", tmp_path / "site" / "vecinfer_hf")
    paths = os.pathsep.join([str(tmp_path / "site"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    code = _GENERATE.format(codebook=str(tmp_path / "codebook"))
    (tmp_path / "home").mkdir()
    env = {"HF_TOKEN": "", "PYTHONPATH": paths, "VECINFER_KERNELS_LOCK": str(lock)}
    online = run_fresh(code, hub.url, tmp_path / "home", **env).result
    assert f"kernels--vecinfer--vecinfer-attention/snapshots/{commit}/build/" in online["file"]
    hub.requests.clear()
    offline = run_fresh(code, hub.url, tmp_path / "home", HF_HUB_OFFLINE="1", **env).result
    assert offline == online
    assert hub.requests == []


_PULL = """
from vecinfer_hf.ops import kernel_pull
kernel_pull.VERSION = 1
kernel_pull.check_module = lambda *_: {check}
entry, fresh = kernel_pull.pull({pin!r})
print(fresh, entry.name, entry.pulled, sorted(path.name for path in (entry.directory / "build").glob("*/*.txt")))
"""


def test_a_build_is_pulled_by_its_commit(hub, publish, kernel, warm, tmp_path):
    publish("--kernel", kernel, "--upload")
    commit = repository(hub).resolve("v1")
    env = {"HF_TOKEN": "", "KERNELS_CACHE": str(tmp_path / "hub"), "VECINFER_KERNELS_CACHE": str(tmp_path / "cache")}

    def pull(commit, check="None"):
        return warm.run(_PULL.format(pin=f"{REPO}@{commit}", check=check), **env)

    absent = pull("0" * 40)
    assert f"{REPO}@{'0' * 40} has no kernels for this machine" in absent.stderr
    refused = pull(commit, "1 / 0")
    assert "has no kernels for this machine: ZeroDivisionError" in refused.stderr
    assert not (tmp_path / "cache").exists()
    first = pull(commit)
    assert first.stdout.startswith(f"True pulled-org--stand-in-{commit[:12]} {REPO}@{commit} ['_stand_in_")
    hub.requests.clear()
    assert pull(commit).stdout == first.stdout.replace("True", "False")
    assert hub.requests == []
