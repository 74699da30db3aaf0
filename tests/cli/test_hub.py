# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer push`, `pull` and `find` on the command line."""

import json

import pytest
from hub_codebooks import tiny_codebook


pytest_plugins = ["hub_fixtures"]
pytestmark = pytest.mark.hub


@pytest.fixture
def command(warm, token):
    """Run `vecinfer` with these words in another process: (exit status, standard output, standard error)."""

    def run(*words, token=token):
        done = warm.run(f"from vecinfer_hf.cli.app import main; main({[str(w) for w in words]!r})", HF_TOKEN=token)
        return done.code, done.stdout, done.stderr

    return run


@pytest.fixture
def local(tmp_path):
    tiny_codebook().save_pretrained(tmp_path / "made")
    return tmp_path / "made"


def test_push_then_pull(hub, command, local, repo, tmp_path):
    status, text, _ = command("push", local, repo, "--subfolder", "2bit", "--private", "-m", "The first")
    assert status == 0
    repository = hub.store.repositories["model", repo]
    commit = repository.commits[repository.resolve("main")]
    assert (repository.private, commit.title) == (True, "The first")
    assert f"{hub.url}/{repo}/commit/{commit.oid}" in text
    status, text, _ = command("pull", repo, "--subfolder", "2bit", "-o", tmp_path / "got", "--json")
    assert json.loads(text) == {"commit": commit.oid, "directory": str(tmp_path / "got")}
    for name in ("config.json", "codebook.safetensors"):
        assert (tmp_path / "got" / name).read_bytes() == (local / name).read_bytes()
    status, text, _ = command("pull", repo, "--subfolder", "2bit")
    assert status == 0
    assert commit.oid in text
    assert "tiny-llama" in text


def test_push_as_a_pull_request(hub, command, local, repo):
    command("push", local, repo)
    status, text, _ = command("push", local, repo, "--subfolder", "again", "--create-pr", "--json")
    pushed = json.loads(text)
    assert (status, pushed["pull_request"]) == (0, f"{hub.url}/{repo}/discussions/1")
    assert hub.store.repositories["model", repo].resolve("refs/pr/1") == pushed["commit"]


def test_errors_are_one_line_and_status_2(command, local, repo, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    command("push", local, repo)
    for words, part in (
        (("push", tmp_path / "absent", repo), "holds no codebook"),
        (("push", local, "not a name"), "neither a directory nor a Hub repository"),
        (("pull", "org/absent"), "no such repository"),
        (("pull", repo, "--revision", "absent"), "no revision 'absent'"),
        (("pull", repo, "-o", tmp_path / "full"), "exists and is not empty"),
    ):
        status, _, errors = command(*words)
        assert status == 2
        [line] = [line for line in errors.splitlines() if line.startswith("vecinfer: ")]
        assert part in line
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    status, _, errors = command("push", local, repo, token="")
    assert (status, "401" in errors) == (2, True)


def test_find(command, local, repo):
    command("push", local, repo)
    status, text, _ = command("find", "org/tiny-llama", "--json")
    assert status == 0
    assert repo in [item["name"] for item in json.loads(text)]
    status, text, _ = command("find", "org/tiny-llama", "--bits", "2")
    assert (status, repo in text) == (0, True)
    status, text, errors = command("find", "nobody/nothing")
    assert (status, text) == (1, "")
    assert "vecinfer: No codebook is known for nobody/nothing" in errors
