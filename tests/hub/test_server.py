# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The local Hub itself, used through plain huggingface_hub calls: if these hold, the other Hub tests test us."""

import hashlib
import re
import time
from http.client import IncompleteRead
from urllib.request import Request, urlopen

import huggingface_hub
import pytest
from hub_server import HubServer
from hub_store import File
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


pytestmark = pytest.mark.hub
BIG = bytes(range(256)) * 4096


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def owner(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return HfApi(hub.url, token=hub.store.add_user("owner", organizations=["org"]))


def add(api, repo_id="org/name", **files):
    operations = [CommitOperationAdd(name.replace("__", "."), data) for name, data in files.items()]
    return api.create_commit(repo_id, operations, commit_message="add")


def test_upload_and_download_of_small_and_large_files(hub, owner, tmp_path):
    owner.create_repo("org/name")
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "README.md").write_text("---\ntags:\n- vecinfer\n---\n# Card\n")
    (source / "sub" / "weights.safetensors").write_bytes(BIG)
    commit = owner.upload_folder(repo_id="org/name", folder_path=source)
    assert re.fullmatch("[0-9a-f]{40}", commit.oid)
    got = owner.snapshot_download("org/name", cache_dir=tmp_path / "cache")
    assert (tmp_path / "cache/models--org--name/refs/main").read_text() == commit.oid
    assert open(f"{got}/sub/weights.safetensors", "rb").read() == BIG
    assert any(path.startswith("/lfs-upload/") for path in hub.paths("PUT"))
    assert any(path.startswith("/lfs-download/") for path in hub.paths("GET"))
    info = owner.model_info("org/name", files_metadata=True)
    large = {s.rfilename: s for s in info.siblings}["sub/weights.safetensors"]
    assert (large.size, large.lfs.sha256) == (len(BIG), hashlib.sha256(BIG).hexdigest())
    assert info.sha == commit.oid
    assert [e.path for e in owner.list_repo_tree("org/name")] == [".gitattributes", "README.md", "sub"]


def test_commit_ids_name_the_content(owner):
    owner.create_repo("org/name")
    first = add(owner, a__txt=b"1").oid
    second = add(owner, a__txt=b"2").oid
    assert first != second
    assert owner.model_info("org/name").sha == second
    assert owner.model_info("org/name", revision=first).sha == first
    assert [c.commit_id for c in owner.list_repo_commits("org/name")][:2] == [second, first]


def test_stale_parent_commit_is_refused(owner):
    owner.create_repo("org/name")
    first = add(owner, a__txt=b"1").oid
    add(owner, a__txt=b"2")
    with pytest.raises(HfHubHTTPError, match="412"):
        owner.create_commit(
            "org/name", [CommitOperationAdd("a.txt", b"3")], commit_message="late", parent_commit=first
        )


def test_pull_request_changes_main_only_when_merged(hub, owner, tmp_path):
    owner.create_repo("org/name")
    stranger = HfApi(hub.url, token=hub.store.add_user("stranger"))
    with pytest.raises(HfHubHTTPError, match="403"):
        add(stranger, a__txt=b"pushed")
    offered = stranger.create_commit(
        "org/name", [CommitOperationAdd("a.txt", b"offered")], commit_message="offer", create_pr=True
    )
    assert offered.pr_revision == "refs/pr/1"
    assert not owner.file_exists("org/name", "a.txt")
    path = stranger.hf_hub_download("org/name", "a.txt", revision="refs/pr/1", cache_dir=tmp_path)
    assert open(path).read() == "offered"
    owner.merge_pull_request("org/name", 1)
    assert owner.file_exists("org/name", "a.txt")
    assert [r.ref for r in owner.list_repo_refs("org/name", include_pull_requests=True).pull_requests] == ["refs/pr/1"]


def test_branches_and_tags(owner):
    owner.create_repo("org/name")
    first = add(owner, a__txt=b"1").oid
    owner.create_branch("org/name", branch="old", revision=first)
    owner.create_tag("org/name", tag="v1.0", revision=first)
    add(owner, a__txt=b"2")
    for revision in ("old", "v1.0", first):
        assert owner.model_info("org/name", revision=revision).sha == first
    with pytest.raises(RevisionNotFoundError):
        owner.model_info("org/name", revision="absent")
    with pytest.raises(EntryNotFoundError):
        owner.hf_hub_download("org/name", "absent.txt")


def test_who_may_read_and_write(hub, owner):
    owner.create_repo("org/secret", private=True)
    anonymous = HfApi(hub.url, token=False)
    stranger = HfApi(hub.url, token=hub.store.add_user("stranger"))
    reader = HfApi(hub.url, token=hub.store.add_user("reader", organizations=["org"], write=False))
    for api, status in ((anonymous, 401), (stranger, 404)):
        with pytest.raises(RepositoryNotFoundError) as caught:
            api.model_info("org/secret")
        assert caught.value.response.status_code == status
    assert reader.model_info("org/secret").private
    with pytest.raises(HfHubHTTPError, match="403"):
        add(reader, "org/secret", a__txt=b"1")
    with pytest.raises(HfHubHTTPError, match="403"):
        stranger.create_repo("org/other")
    hub.store.revoke(owner.token)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as caught:
        owner.model_info("org/secret")
    assert caught.value.response.status_code == 401
    hub.store.repositories["model", "org/secret"].private = False
    hub.store.repositories["model", "org/secret"].gated = True
    with pytest.raises(GatedRepoError):
        stranger.model_info("org/secret")


def test_search_by_tag_author_and_text(owner):
    card = b"---\ntags: [vecinfer]\nbase_model: org/base\nbase_model_relation: quantized\nlicense: mit\n---\n"
    for name in ("one", "two"):
        owner.create_repo(f"org/{name}")
    add(owner, "org/one", README__md=card)
    found = list(owner.list_models(filter=["vecinfer", "base_model:org/base"], author="org"))
    assert [m.id for m in found] == ["org/one"]
    assert "base_model:quantized:org/base" in found[0].tags
    assert found[0].card_data.base_model == "org/base"
    assert not list(owner.list_models(filter="vecinfer", author="other"))
    assert [m.id for m in owner.list_models(search="TWO")] == ["org/two"]


def test_bad_card_is_refused(owner):
    owner.create_repo("org/name")
    with pytest.raises(ValueError, match="tags"):
        add(owner, README__md=b"---\ntags: vecinfer\n---\n")


@pytest.mark.skipif(huggingface_hub.__version__ < "2", reason="huggingface_hub 1.x cannot write kernel repositories")
def test_kernel_repositories(hub, owner, tmp_path):
    owner.create_repo("org/kern", repo_type="kernel")
    owner.create_branch("org/kern", branch="v1", repo_type="kernel")
    operations = [CommitOperationAdd("build/x/metadata.json", b"{}"), CommitOperationAdd("build/x/k.so", BIG)]
    owner.create_commit("org/kern", operations, commit_message="add", repo_type="kernel", revision="v1")
    assert {r.name for r in owner.list_repo_refs("org/kern", repo_type="kernel").branches} == {"main", "v1"}
    got = owner.snapshot_download("org/kern", repo_type="kernel", revision="v1", cache_dir=tmp_path)
    assert open(f"{got}/build/x/k.so", "rb").read() == BIG
    hub.store.trusted_kernel_publishers.add("org")
    assert owner.get_organization_overview("org").trustedKernelPublisher


def test_ordered_faults_really_happen(hub, owner, tmp_path):
    owner.create_repo("org/name")
    add(owner, w__safetensors=BIG)
    down = hub.fault("GET /api/models/org/name", status=503)
    with pytest.raises(HfHubHTTPError, match="503"):
        owner.model_info("org/name")
    assert owner.model_info("org/name").sha
    assert down.hits == 1
    for reset, error in ((False, IncompleteRead), (True, ConnectionResetError)):
        cut = hub.fault("GET /lfs-download", cut_after=1000, reset=reset)
        with pytest.raises(error), urlopen(f"{hub.url}/org/name/resolve/main/w.safetensors") as half:
            half.read()
        assert cut.hits == 1
    slow = hub.fault("GET /lfs-download", wait=0.3)
    start = time.monotonic()
    path = owner.hf_hub_download("org/name", "w.safetensors", cache_dir=tmp_path)
    assert open(path, "rb").read() == BIG
    assert slow.hits == 1
    assert time.monotonic() - start >= 0.3
    with urlopen(Request(f"{hub.url}/org/name/resolve/main/.gitattributes", headers={"Range": "bytes=2-5"})) as part:
        assert (part.status, part.read()) == (206, b"safe")


def test_large_files_are_stored_once_and_checked(hub, owner):
    owner.create_repo("org/name")
    add(owner, w__safetensors=BIG)
    add(owner, again__safetensors=BIG)
    assert len([path for path in hub.paths("PUT") if path.startswith("/lfs-upload/")]) == 1
    assert File(BIG, lfs=True).etag == hashlib.sha256(BIG).hexdigest()
    assert File(b"hello\n").oid == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
