# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""One person calibrates and shares, others name the repository: the whole way over HTTP, between separate caches."""

import json

import pytest
from hub_process import ROOT


pytest_plugins = ["hub_fixtures"]
pytestmark = pytest.mark.hub


@pytest.fixture(scope="module")
def model_id(running_hub, warm, token):
    """The tiny llama, published on the Hub."""
    warm.call("publish_model", "org/tiny-llama", token=token)
    return "org/tiny-llama"


@pytest.fixture
def machine(cold, tmp_path):
    """A function that runs something on a new machine of that name, or on one used before."""

    def run(name, function, *arguments, **options):
        return cold.call_at(tmp_path / name, function, *arguments, **options)

    return run


def test_two_machines(hub, warm, token, repo, model_id, machine):
    # The first calibrates, pushes privately, then offers something better as a pull request.
    first = warm.call("calibrate_and_push", model_id, repo, seed=1, private=True, token=token)
    offered = warm.call("calibrate_and_push", model_id, repo, seed=2, create_pr=True, token=token)
    assert offered["fingerprint"] != first["fingerprint"]
    merged = hub.merge(repo, int(offered["pr"].rsplit("/", 1)[1]))

    # The second names the repository and generates; its codebook is the merged one.
    online = machine("second", "load_and_generate", model_id, repo, token=token)
    assert (online["cache"], online["layers"], online["revision"]) == ("VecInferCache", 2, merged)
    assert len(online["tokens"]) == 40

    # The same with the network off: not one request.
    hub.requests.clear()
    assert machine("second", "load_and_generate", model_id, repo, offline=True) == online
    assert hub.requests == []

    # After a new push the old commit still gives what it gave.
    newest = warm.call("calibrate_and_push", model_id, repo, seed=3, token=token)
    pinned = machine("second", "load_and_generate", model_id, repo, revision=merged, token=token)
    assert pinned == online
    moved = warm.call("load_and_generate", model_id, repo, token=token)
    assert (moved["revision"], moved["tokens"] != online["tokens"]) == (newest["commit"], True)


def test_a_saved_model_keeps_its_codebook(hub, warm, token, repo, model_id, machine, tmp_path):
    commit = warm.call("calibrate_and_push", model_id, repo, seed=1, token=token)["commit"]
    saved = tmp_path / "saved"
    here = warm.call("load_and_generate", model_id, repo, save_to=str(saved))
    config = json.loads((saved / "config.json").read_text())["quantization_config"]
    generation = json.loads((saved / "generation_config.json").read_text())["cache_config"]
    for named in (config, generation):
        assert (named["codebook"], named["revision"]) == (repo, commit)
    warm.call("calibrate_and_push", model_id, repo, seed=2, token=token)  # the branch moves on
    elsewhere = machine("elsewhere", "load_and_generate", str(saved))
    assert elsewhere == here
    assert here["layers"] == 2


def test_auto_is_saved_as_what_it_took(hub, warm, model_id, token, tmp_path):
    # A model of somebody else, so that there is one codebook by its owner only.
    maker = hub.store.add_user("maker")
    warm.call("publish_model", "maker/tiny-auto", token=maker)
    commit = warm.call("calibrate_and_push", "maker/tiny-auto", "maker/book", token=maker)["commit"]
    saved = tmp_path / "saved"
    found = warm.call("load_and_generate", "maker/tiny-auto", "auto", save_to=str(saved))
    assert (found["codebook"], found["revision"]) == ("maker/book", commit)
    config = json.loads((saved / "config.json").read_text())["quantization_config"]
    assert (config["codebook"], config["revision"]) == ("maker/book", commit)
    assert warm.call("load_and_generate", str(saved)) == found


def test_the_card_s_example_runs(warm, token, repo, model_id):
    warm.call("calibrate_and_push", model_id, repo, token=token)
    assert warm.call("run_the_card", repo) == {}


def run_example(warm, token, *arguments):
    path = str(ROOT / "examples" / "share_codebook.py")
    code = f"import runpy, sys; sys.argv = {[path, *arguments]!r}; runpy.run_path({path!r}, run_name='__main__')"
    done = warm.run(code, HF_TOKEN=token)
    assert done.code == 0, done.stderr[-2000:]
    return done.stdout


def test_the_example(hub, warm, token, repo, model_id, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{index * index % 95 + 2}" for index in range(2000)))
    options = ("--text", str(text), "--sequence-length", "128", "--tokens", "1024")
    printed = run_example(warm, token, model_id, repo, *options)
    repository = hub.store.repositories["model", repo]
    assert repository.private
    assert f"'revision': '{repository.resolve('main')}', 'subfolder': '2bit'" in printed
    stranger = hub.store.add_user("stranger")
    repository.private = False
    printed = run_example(warm, stranger, model_id, repo, *options, "--bits", "4", "--create-pr")
    assert f"pushed: {hub.url}/{repo}/discussions/1" in printed
    assert "4bit/config.json" in repository.commits[repository.resolve("refs/pr/1")].files
    assert "4bit/config.json" not in repository.commits[repository.resolve("main")].files
