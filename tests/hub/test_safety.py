# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Hostile and broken repositories: each test first shows that the fault is there, then that it does no harm."""

import hashlib
import io
import json
import os
import pickle
import re
import struct

import pytest
import safetensors.torch
import torch
from hub_codebooks import tiny_codebook
from hub_process import ROOT
from hub_store import File


pytest_plugins = ["hub_fixtures"]
pytestmark = pytest.mark.hub
TENSORS = "codebook.safetensors"


@pytest.fixture
def pushed(hub, warm, token, repo):
    """A good codebook on the Hub: (repository, what `push` said)."""
    return repo, warm.call("push", repo, token=token)


def replace(hub, repo, forged=True, **files):
    """Commit other contents, as somebody with git and bad intentions could; config.json names other tensors' hash."""
    repository = hub.store.repositories["model", repo]
    if forged and "codebook__safetensors" in files:
        config = json.loads(original(hub, repo, "config.json"))
        config["tensors"]["sha256"] = hashlib.sha256(files["codebook__safetensors"]).hexdigest()
        files["config__json"] = json.dumps(config).encode()
    named = {name.replace("__", "."): File(data, lfs=name.endswith("safetensors")) for name, data in files.items()}
    before = repository.commits[repository.resolve("main")].files
    return repository.commit("refs/heads/main", {**before, **named}, "other contents", "owner")


def original(hub, repo, name):
    return hub.store.repositories["model", repo].file("main", name).data


class _Bomb:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_no_module_can_unpickle_or_run_what_it_reads():
    forbidden = re.compile(
        r"\bpickle\b|torch\.load|np\.load|joblib|dill|\beval\(|\bexec\(|__import__|weights_only|yaml\.(unsafe_|full_)?load\("
    )
    assert forbidden.search("x = torch.load(path)")  # the pattern finds what it is for
    sources = [*(ROOT / "vecinfer_hf").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    assert len(sources) > 20
    # `model.eval()` has no argument; the built-in that runs text has one.
    hits = [f"{p.name}: {m}" for p in sources for m in forbidden.findall(p.read_text().replace(".eval()", ""))]
    assert not hits


@pytest.mark.parametrize("saved_with", ["pickle", "torch"])
def test_a_pickle_in_place_of_the_tensors_is_not_executed(hub, warm, pushed, tmp_path, saved_with):
    repo, _ = pushed
    marker = tmp_path / "executed"
    if saved_with == "pickle":
        bomb = pickle.dumps(_Bomb(marker))
        pickle.loads(bomb)
    else:
        buffer = io.BytesIO()
        torch.save(_Bomb(marker), buffer)
        bomb = buffer.getvalue()
        torch.load(io.BytesIO(bomb), weights_only=False)
    assert marker.is_dir()  # the fault is real: whoever unpickles this runs its code
    marker.rmdir()
    replace(hub, repo, codebook__safetensors=bomb, codebook__bin=bomb, config__pkl=bomb)
    found = warm.call("pull", repo, str(tmp_path / "cache"))
    assert found["kind"] == "CodebookError"
    assert "not a readable safetensors file" in found["error"]
    assert not marker.exists()


def with_siblings(change):
    """A fault's rewrite of a repository's listing."""

    def rewrite(body):
        listing = json.loads(body)
        change(listing["siblings"])
        return json.dumps(listing).encode()

    return rewrite


@pytest.mark.parametrize("evil", ["../../../../evil.txt", "/evil.txt", "a//b", "..\\evil.txt", "C:/evil.txt"])
def test_a_listing_with_a_path_outside_is_refused(hub, warm, pushed, tmp_path, evil):
    repo, _ = pushed
    entry = {"rfilename": evil, "size": 4, "blobId": "0" * 40}
    hub.fault(f"GET /api/models/{repo}", times=9, rewrite=with_siblings(lambda s: s.append(entry)))
    assert evil in warm.call("plain_info", repo)["files"]
    found = warm.call("pull", repo, str(tmp_path / "cache"))
    assert f"lists the file {evil!r}, which is outside it" in found["error"]
    assert not list(tmp_path.rglob("evil*"))


def test_a_tree_with_a_path_outside_writes_nothing_there(hub, warm, pushed, tmp_path):
    repo, sent = pushed
    evil = {"type": "file", "path": "../../../evil.txt", "oid": "0" * 40, "size": 4}

    def rewrite(body):
        return json.dumps([*json.loads(body), evil]).encode()

    replace(hub, repo, extra__txt=b"not ours")
    fault = hub.fault(f"GET /api/models/{repo}/tree", times=9, rewrite=rewrite)
    found = warm.call("pull", repo, str(tmp_path / "cache"))
    if fault.hits == 0:
        pytest.skip("this huggingface_hub does not ask for the tree")
    assert found["fingerprint"] == sent["fingerprint"]
    assert not list(tmp_path.rglob("evil*"))
    assert not list(tmp_path.rglob("extra.txt"))  # only a codebook's own files are fetched at all


def test_an_announced_terabyte_is_not_downloaded(hub, warm, pushed, tmp_path):
    repo, _ = pushed

    def grow(siblings):
        next(s for s in siblings if s["rfilename"] == TENSORS)["size"] = 1 << 40

    hub.fault(f"GET /api/models/{repo}", times=9, rewrite=with_siblings(grow))
    assert warm.call("plain_info", repo)["files"][TENSORS] == 1 << 40
    found = warm.call("pull", repo, str(tmp_path))
    assert f"announces {1 << 40} bytes for {TENSORS}" in found["error"]
    assert not [path for path in hub.paths("GET") if "resolve" in path]


def test_a_header_that_claims_a_terabyte_allocates_nothing(hub, warm, pushed, tmp_path):
    repo, _ = pushed
    data = original(hub, repo, TENSORS)
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    name = next(key for key in header if key.endswith("key.centroids"))
    header[name] |= {"shape": [1 << 40], "data_offsets": [0, 1 << 40]}
    text = json.dumps(header).encode()
    for claim in (struct.pack("<Q", len(text)) + text + data[8 + length :], struct.pack("<Q", 1 << 40) + data[8:]):
        announced = struct.unpack("<Q", claim[:8])[0]
        assert announced == 1 << 40 or json.loads(claim[8 : 8 + announced])[name]["data_offsets"][1] == 1 << 40
        replace(hub, repo, codebook__safetensors=claim)
        found = warm.call("pull", repo, str(tmp_path))
        assert found["kind"] == "CodebookError"
        assert "not a readable safetensors file" in found["error"]
        assert found["kilobytes_more"] < 50_000


def test_a_config_that_claims_terabytes_allocates_nothing(hub, warm, pushed, tmp_path):
    repo, _ = pushed
    # So many heads are refused at once, so few by the header of the tensors.
    for heads, dim, part in ((1 << 30, 1 << 10, "num_key_value_heads is"), (4096, 1024, "must be I8 [4096, ")):
        config = json.loads(original(hub, repo, "config.json"))
        for layer in config["model"]["layers"]:
            layer.update(num_key_value_heads=heads, key_head_dim=dim, value_head_dim=dim)
        assert 2 * 4 * heads * dim * dim > 1 << 34  # bytes of the matrices of both layers
        replace(hub, repo, config__json=json.dumps(config).encode())
        found = warm.call("pull", repo, str(tmp_path))
        assert found["kind"] == "CodebookError"
        assert part in found["error"]
        assert found["kilobytes_more"] < 50_000


@pytest.mark.parametrize("fault", ["shape", "dtype", "missing", "extra", "nan", "other codebook"])
def test_tensors_that_do_not_match_the_config_are_refused(hub, warm, pushed, tmp_path, fault):
    repo, _ = pushed
    tensors = safetensors.torch.load(original(hub, repo, TENSORS))
    name = next(key for key in tensors if key.endswith("0.key.smooth_scale"))
    if fault == "shape":
        tensors[name] = tensors[name][:, :-1].contiguous()
    elif fault == "dtype":
        tensors[name] = tensors[name].half()
    elif fault == "missing":
        del tensors[name]
    elif fault == "extra":
        tensors["layers.0.surplus"] = torch.zeros(3)
    elif fault == "nan":
        tensors[name][0, 0] = float("nan")
    else:
        tiny_codebook(bits=4).save_pretrained(tmp_path / "other")
        tensors = safetensors.torch.load_file(tmp_path / "other" / TENSORS)
    changed = safetensors.torch.save(tensors)
    assert safetensors.torch.load(changed).keys() == tensors.keys()  # to safetensors the file is a good one
    replace(hub, repo, codebook__safetensors=changed)
    found = warm.call("pull", repo, str(tmp_path / "cache"))
    assert found["kind"] == "CodebookError"
    words = {"missing": "lacks", "extra": "unexpected", "nan": "NaN", "other codebook": "asks for"}
    assert words.get(fault, "must be") in found["error"]


def test_tensors_whose_hash_config_json_does_not_name_are_refused(hub, warm, pushed, tmp_path):
    """The Hub's own hashes are right here: somebody has replaced one file of the two."""
    repo, _ = pushed
    tensors = safetensors.torch.load(original(hub, repo, TENSORS))
    tensors["layers.0.key.centroids"] = tensors["layers.0.key.centroids"].flip(2).contiguous()
    replace(hub, repo, forged=False, codebook__safetensors=safetensors.torch.save(tensors))
    found = warm.call("pull", repo, str(tmp_path / "cache"))
    assert found["kind"] == "CodebookError"
    assert "do not belong together" in found["error"]


def test_half_a_file_is_refused(hub, warm, pushed, tmp_path):
    repo, _ = pushed
    data = original(hub, repo, TENSORS)
    for part in (data[: len(data) // 2], data[:7], b""):
        replace(hub, repo, codebook__safetensors=part)
        found = warm.call("pull", repo, str(tmp_path))
        assert found["kind"] == "CodebookError"
        assert TENSORS in found["error"]


def test_a_codebook_of_another_model_is_refused(hub, warm, pushed, tmp_path):
    repo, _ = pushed
    found = warm.call("use", repo, str(tmp_path), num_hidden_layers=3)
    assert "it was made for num_hidden_layers 2 (org/tiny-llama), the model has 3" in found["error"]
    assert "error" not in warm.call("use", repo, str(tmp_path))


def test_a_repository_without_a_codebook(hub, warm, pushed, tmp_path):
    repo, _ = pushed
    repository = hub.store.repositories["model", repo]
    repository.commit("refs/heads/main", {"model.safetensors": File(b"x", lfs=True)}, "a model", "owner")
    assert warm.call("plain_info", repo)["files"] == {"model.safetensors": 1}
    assert "has no file config.json, so there is no codebook" in warm.call("pull", repo, str(tmp_path))["error"]
