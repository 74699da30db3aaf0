# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Codebooks up and down over HTTP: commits, pull requests, branches, subfolders, pins, the cache."""

import json
import re

import pytest
from format_1 import save_format_1
from hub_codebooks import tiny_codebook
from hub_store import File, parse_card

from vecinfer_hf.codebook.saving import GENERATED


pytest_plugins = ["hub_fixtures"]
pytestmark = pytest.mark.hub


def card(hub, repo, path="README.md", revision="main"):
    return hub.store.repositories["model", repo].file(revision, path).data.decode()


def test_what_is_pushed_is_what_is_pulled(hub, warm, token, repo, tmp_path):
    pushed = warm.call("push", repo, token=token)
    assert re.fullmatch("[0-9a-f]{40}", pushed["commit"])
    files = hub.store.repositories["model", repo].commits[pushed["commit"]].files
    assert {"config.json", "codebook.safetensors", "README.md"} <= set(files)
    assert len(hub.store.repositories["model", repo].commits) == 2  # the Hub's first commit, and one more
    pulled = warm.call("pull", repo, str(tmp_path))
    assert (pulled["commit"], pulled["fingerprint"]) == (pushed["commit"], pushed["fingerprint"])


def test_a_cached_commit_needs_no_network(hub, warm, token, repo, tmp_path):
    commit = warm.call("push", repo, token=token)["commit"]
    first = warm.call("pull", repo, str(tmp_path))
    hub.requests.clear()
    assert warm.call("pull", repo, str(tmp_path), revision=commit) == first
    assert warm.call("pull", repo, str(tmp_path), local_files_only=True) == first
    assert hub.requests == []
    assert warm.call("pull", repo, str(tmp_path), revision=commit, force_download=True) == first
    assert any("/lfs-download/" in path for path in hub.paths("GET"))


def test_nothing_in_the_cache_and_no_network(warm, tmp_path, repo):
    found = warm.call("pull", repo, str(tmp_path), local_files_only=True)
    assert found["kind"] == "CodebookHubError"
    assert "in the local cache; download it once" in found["error"]


def test_an_old_commit_stays_what_it_was(warm, token, repo, tmp_path):
    old = warm.call("push", repo, seed=1, token=token)
    new = warm.call("push", repo, seed=2, token=token)
    assert old["fingerprint"] != new["fingerprint"]
    assert warm.call("pull", repo, str(tmp_path))["fingerprint"] == new["fingerprint"]
    pinned = warm.call("pull", repo, str(tmp_path), revision=old["commit"])
    assert (pinned["fingerprint"], pinned["commit"]) == (old["fingerprint"], old["commit"])


def test_private_then_pull_request_then_merge(hub, warm, token, repo, tmp_path):
    private = warm.call("push", repo, seed=1, private=True, token=token)
    assert hub.store.repositories["model", repo].private
    offered = warm.call("push", repo, seed=2, create_pr=True, token=token)
    assert offered["pr"] == "refs/pr/1"
    assert warm.call("pull", repo, str(tmp_path), token=token)["commit"] == private["commit"]
    tried = warm.call("pull", repo, str(tmp_path), revision="refs/pr/1", token=token)
    assert tried["fingerprint"] == offered["fingerprint"]
    merged = hub.merge(repo, 1)
    pulled = warm.call("pull", repo, str(tmp_path), token=token)
    assert (pulled["commit"], pulled["fingerprint"]) == (merged, offered["fingerprint"])


def test_a_public_repository_is_not_taken_for_a_private_one(hub, warm, token, repo):
    commit = warm.call("push", repo, token=token)["commit"]
    found = warm.call("push", repo, seed=1, private=True, token=token)
    assert "public" in found["error"]
    assert hub.store.repositories["model", repo].resolve("main") == commit


def test_a_branch_is_created(hub, warm, token, repo, tmp_path):
    first = warm.call("push", repo, seed=1, token=token)
    second = warm.call("push", repo, seed=2, revision="better", token=token)
    assert hub.store.repositories["model", repo].resolve("main") == first["commit"]
    assert warm.call("pull", repo, str(tmp_path), revision="better")["fingerprint"] == second["fingerprint"]


def test_several_codebooks_in_one_repository(hub, warm, token, repo, tmp_path):
    two = warm.call("push", repo, seed=1, subfolder="2bit", token=token)
    four = warm.call("push", repo, seed=2, bits=4, subfolder="4bit", token=token)
    for name, pushed in (("2bit", two), ("4bit", four)):
        pulled = warm.call("pull", repo, str(tmp_path), subfolder=name)
        assert pulled["fingerprint"] == pushed["fingerprint"]
        assert pulled["folder"].endswith(name)
        assert f'subfolder="{name}"' in card(hub, repo, f"{name}/README.md")
    listed = {entry["subfolder"]: entry["bits_per_element"] for entry in parse_card(card(hub, repo))["vecinfer"]}
    assert listed == {"2bit": 2.0, "4bit": 4.0}
    found = warm.call("pull", repo, str(tmp_path))
    assert "['2bit', '4bit']" in found["error"]
    assert "subfolder=" in found["error"]


def test_a_codebook_at_the_root_beside_others(hub, warm, token, repo, tmp_path):
    root = warm.call("push", repo, seed=1, token=token)
    text = card(hub, repo).split("---\n", 2)[2]
    warm.call("push", repo, seed=2, subfolder="other", token=token)
    assert warm.call("pull", repo, str(tmp_path))["fingerprint"] == root["fingerprint"]
    assert [entry["subfolder"] for entry in parse_card(card(hub, repo))["vecinfer"]] == ["", "other"]
    assert card(hub, repo).split("---\n", 2)[2].strip() == text.strip()


def test_the_author_keeps_an_own_readme(hub, warm, token, repo):
    warm.call("push", repo, seed=1, token=token)
    repository = hub.store.repositories["model", repo]
    own = card(hub, repo).replace(GENERATED, "My own words.")
    files = repository.commits[repository.resolve("main")].files | {"README.md": File(own.encode())}
    repository.commit("refs/heads/main", files, "edit on the web", "owner")
    for options in ({}, {"subfolder": "more"}):
        assert "commit" in warm.call("push", repo, seed=2, token=token, **options)
        assert card(hub, repo).strip() == own.strip()


def test_metadata_somebody_has_broken_are_replaced(hub, warm, token, repo):
    warm.call("push", repo, subfolder="2bit", token=token)
    repository = hub.store.repositories["model", repo]
    for broken in ("vecinfer: 7", "vecinfer:\n- 7\n- subfolder: other", "vecinfer:\n- [1]"):
        text = f"---\ntags: [vecinfer]\n{broken}\n---\n{GENERATED}\n"
        files = repository.commits[repository.resolve("main")].files | {"README.md": File(text.encode())}
        repository.commit("refs/heads/main", files, "an edit", "owner")
        assert warm.call("find", "org/tiny-llama") is not None
        assert "commit" in warm.call("push", repo, seed=1, subfolder="4bit", token=token)
        assert [entry["subfolder"] for entry in parse_card(card(hub, repo))["vecinfer"]] == ["4bit"]


def test_a_name_without_owner_is_one_s_own(hub, warm, token):
    assert "commit" in warm.call("push", "my-codebook", token=token)
    assert 'codebook="owner/my-codebook"' in card(hub, "owner/my-codebook")


def test_a_codebook_of_a_local_model_gets_a_public_name(hub, warm, token, repo):
    def model_name():
        return json.loads(hub.store.repositories["model", repo].file("main", "config.json").data)["model"]["name"]

    warm.call("push", repo, name="/home/me/secret-project/tiny", token=token)
    assert model_name() == "tiny"
    assert "secret-project" not in card(hub, repo)
    assert "base_model" not in parse_card(card(hub, repo))
    warm.call("push", repo, name="/home/me/secret-project/tiny", base_model="org/tiny-llama", token=token)
    assert (model_name(), parse_card(card(hub, repo))["base_model"]) == ("org/tiny-llama", "org/tiny-llama")
    assert "is not a Hub id" in warm.call("push", repo, base_model="tiny", token=token)["error"]


def test_the_licence_is_the_base_model_s(hub, warm, token, repo):
    warm.call("push", repo, name="org/not-there", licence=None, token=token)
    assert "license" not in parse_card(card(hub, repo))
    model = hub.store.create("model", "licensed", "org", False, hub.store.who(token))
    model.commit("refs/heads/main", {"README.md": File(b"---\nlicense: mit\n---\n")}, "a model", "owner")
    warm.call("push", repo, name="org/licensed", licence=None, token=token)
    assert parse_card(card(hub, repo))["license"] == "mit"
    warm.call("push", repo, name="org/licensed", licence="apache-2.0", token=token)
    assert parse_card(card(hub, repo))["license"] == "apache-2.0"


def test_two_pushes_at_once_lose_nothing(hub, warm, token, repo):
    warm.call("push", repo, subfolder="first", token=token)
    started = [warm.begin("push", repo, seed=n, subfolder=f"at-once-{n}", token=token) for n in range(2)]
    assert all("commit" in warm.wait(one).result for one in started)
    listed = {entry["subfolder"] for entry in parse_card(card(hub, repo))["vecinfer"]}
    assert listed == {"first", "at-once-0", "at-once-1"}


def test_a_push_that_meets_another_is_made_anew(hub, warm, token, repo):
    warm.call("push", repo, seed=1, token=token)
    refused = hub.fault(f"POST /api/models/{repo}/commit", status=412)
    again = warm.call("push", repo, seed=2, token=token)
    assert refused.hits == 1
    assert hub.store.repositories["model", repo].resolve("main") == again["commit"]


OPTIONS = {
    "VecInferConfig": {"key_bits": 4, "residual_length": 64, "codebook": "org/other", "quant_method": "vecinfer"},
    "CalibrationConfig": {"layer_bits": [[4, 2], [1, 1]], "recipe": "paper", "seed": 3},
}


def test_options_are_pushed_and_pulled(hub, warm, token, repo, tmp_path):
    for kind, options in OPTIONS.items():
        assert "commit" in warm.call("push_config", kind, repo, options, token=token)
        assert "commit" in warm.call("push_config", kind, repo, {}, subfolder="plain", token=token)
    for kind, options in OPTIONS.items():  # both lie in one repository, under names of their own
        assert warm.call("pull_config", kind, repo, cache_dir=str(tmp_path)) == options
        assert "seed" not in warm.call("pull_config", kind, repo, subfolder="plain")
    assert "has no file" in warm.call("pull_config", "VecInferConfig", repo, subfolder="other")["error"]
    assert "so there is no config" in warm.call("pull_config", "VecInferConfig", repo, subfolder="other")["error"]
    repository = hub.store.repositories["model", repo]
    assert repository.commits[repository.resolve("main")].title == "Upload CalibrationConfig"


def test_options_of_another_kind_are_refused(hub, warm, token, repo):
    warm.call("push_config", "VecInferConfig", repo, {}, token=token)
    repository = hub.store.repositories["model", repo]
    for content in (b"{", b"[]", b'{"speed": 1}', b"[" * 100_000, bytes(2 << 20)):
        repository.commit("refs/heads/main", {"vecinfer_config.json": File(content)}, "other options", "owner")
        found = warm.call("pull_config", "VecInferConfig", repo)
        assert found["kind"] in ("ConfigError", "CodebookHubError"), found
        assert "vecinfer_config.json" in found["error"]


def test_unknown_keywords_are_refused_before_anything_is_sent(hub, warm, token, repo):
    hub.requests.clear()
    for function, *arguments in (
        ("push", repo), ("push_config", "VecInferConfig", repo, {}), ("pull_config", "VecInferConfig", repo),
        ("load", repo),
    ):  # fmt: skip
        found = warm.call(function, *arguments, token=token, privat=True)
        assert found["kind"] == "TypeError"
        assert "'privat'" in found["error"]
    assert hub.requests == []


def test_a_name_on_the_hub_is_loaded_as_it_was_asked_for(hub, warm, token, repo):
    old = warm.call("push", repo, seed=1, subfolder="2bit", token=token)
    new = warm.call("push", repo, seed=2, subfolder="2bit", token=token)
    found = warm.call("load", repo, subfolder="2bit")
    assert found["fingerprint"] == new["fingerprint"]
    assert found["source"] == {"codebook": repo, "revision": new["commit"], "subfolder": "2bit"}
    pinned = warm.call("load", repo, subfolder="2bit", revision=old["commit"])
    assert pinned["fingerprint"] == old["fingerprint"]
    missing = warm.call("load", "org/absent")
    assert missing["kind"] == "CodebookHubError"
    assert "There is no directory org/absent here, and the package's own codebooks are" in missing["error"]


def test_a_codebook_of_version_0_1_on_the_hub_loads(hub, warm, token, repo, tmp_path):
    sent = warm.call("push", repo, seed=1, token=token)
    save_format_1(tiny_codebook(1), tmp_path / "old")
    repository = hub.store.repositories["model", repo]
    files = {path.name: File(path.read_bytes(), lfs=path.suffix != ".json") for path in (tmp_path / "old").iterdir()}
    repository.commit("refs/heads/main", files, "as version 0.1 did", "owner")
    assert warm.call("load", repo)["fingerprint"] == sent["fingerprint"]


@pytest.mark.parametrize("name", ["not a name", "a/b/c", "org/../x"])
def test_names_that_are_none(warm, name, tmp_path):
    found = warm.call("pull", name, str(tmp_path))
    assert "neither a directory nor a Hub repository" in found["error"]


def test_an_empty_revision_is_none(warm, repo, token, tmp_path):
    for found in (
        warm.call("pull", repo, str(tmp_path), revision=""),
        warm.call("push", repo, token=token, revision=""),
        warm.call("load", repo, revision=""),
    ):
        assert "revision is ''; give a branch, tag or commit" in found["error"]


@pytest.mark.parametrize("subfolder", ["../other", "/etc", "a/../../b", "*"])
def test_subfolders_stay_inside(warm, repo, subfolder, tmp_path):
    assert "is not a directory inside" in warm.call("pull", repo, str(tmp_path), subfolder=subfolder)["error"]
