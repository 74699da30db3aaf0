# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Finding a codebook: the order, the bits, and that nothing comes from an owner nobody named or allowed."""

import itertools

import pytest
from hub_codebooks import tiny_codebook
from hub_store import File
from tiny_models import tiny_config, tiny_model

from vecinfer_hf import CodebookError, ConfigError, VecInferConfig
from vecinfer_hf.codebook import locate, shipped
from vecinfer_hf.hub import local_places, search
from vecinfer_hf.hub.search import find_codebooks
from vecinfer_hf.integration.resolve import forget_codebooks, resolve


pytest_plugins = ["hub_fixtures"]
_numbers = itertools.count()


@pytest.fixture
def owners(hub):
    """Three new owners with a token each: the model's, a friend, a stranger."""
    number = next(_numbers)
    names = [f"{who}{number}" for who in ("maker", "friend", "stranger")]
    return {name: hub.store.add_user(name) for name in names}


@pytest.fixture
def shipped_root(tmp_path, monkeypatch):
    """A directory that stands for the codebooks shipped with the package."""
    root = tmp_path / "quant_configs"
    for module in (local_places, locate, shipped):
        monkeypatch.setattr(module, "shipped_codebooks", lambda: root)
    forget_codebooks()
    return root


def named_config(name, **changes):
    config = tiny_config("llama", **changes)
    config._name_or_path = name
    return config


def downloads(hub):
    return [path for path in hub.paths("GET") if "/resolve/" in path or "/lfs-download/" in path]


@pytest.mark.hub
def test_search_finds_what_cards_announce_and_downloads_nothing(hub, warm, owners):
    (maker, first), (friend, second), (stranger, third) = owners.items()
    model = f"{maker}/tiny-llama"
    warm.call("push", f"{maker}/book", name=model, token=first)
    warm.call("push", f"{friend}/books", name=model, bits=4, subfolder="4bit", token=second)
    warm.call("push", f"{friend}/books", name=model, bits=1, subfolder="1bit", token=second)
    warm.call("push", f"{stranger}/book", name=model, token=third)
    warm.call("push", f"{stranger}/other-model", name=f"{maker}/another", token=third)
    hub.requests.clear()
    found = warm.call("find", model, trusted_owners=[friend.upper()])
    listed = [(item["name"], item["subfolder"], item["bits_per_element"], item["trusted"]) for item in found]
    assert sorted(listed[:3]) == sorted(
        [(f"{maker}/book", None, 2, True), (f"{friend}/books", "1bit", 1, True), (f"{friend}/books", "4bit", 4, True)]
    )
    assert listed[3:] == [(f"{stranger}/book", None, 2, False)]
    assert [path for path in downloads(hub) if model not in path] == []
    fours = warm.call("find", model, bits=4)
    assert [(item["name"], item["trusted"]) for item in fours] == [(f"{friend}/books", False)]
    assert warm.call("find", model, key_bits=1, value_bits=1)[0]["subfolder"] == "1bit"
    assert warm.call("find", model, search=False) == []


@pytest.mark.hub
def test_auto_takes_the_model_owner_s_and_says_so(hub, warm, owners, tmp_path):
    (maker, token), *_ = owners.items()
    model = f"{maker}/tiny-llama"
    sent = warm.call("push", f"{maker}/book", name=model, token=token)
    finished = warm.wait(warm.begin("automatic", name=model))
    assert (finished.result["codebook"], finished.result["revision"]) == (f"{maker}/book", sent["commit"])
    assert f'codebook="auto" took {maker}/book because its card says it is for {model}' in finished.stderr


@pytest.mark.hub
def test_auto_never_downloads_from_a_stranger(hub, warm, owners, tmp_path):
    (maker, _), _, (stranger, token) = owners.items()
    model = f"{maker}/tiny-llama"
    sent = warm.call("push", f"{stranger}/book", name=model, token=token)
    hub.requests.clear()
    found = warm.call("automatic", name=model)
    assert found["kind"] == "NoCodebookError"
    assert f"{stranger}/book" in found["error"]
    assert f"trusted_owners=['{stranger}']" in found["error"]
    assert downloads(hub) == []
    allowed = warm.call("automatic", name=model, options={"trusted_owners": [stranger]})
    assert allowed["revision"] == sent["commit"]
    by_environment = warm.run(
        f"import hub_tasks; assert hub_tasks.automatic(name={model!r})['revision']",
        VECINFER_TRUSTED_OWNERS=f"nobody, {stranger}",
    )
    assert by_environment.code == 0, by_environment.stderr


@pytest.mark.hub
def test_auto_comes_closest_to_the_bits(warm, owners, tmp_path):
    (maker, token), *_ = owners.items()
    model = f"{maker}/tiny-llama"
    for bits in (1, 4):
        warm.call("push", f"{maker}/books", name=model, bits=bits, subfolder=f"{bits}bit", token=token)
    assert warm.call("automatic", name=model)["subfolder"] == "1bit"
    assert warm.call("automatic", name=model, options={"key_bits": 4})["subfolder"] == "4bit"
    found = warm.call("automatic", name=model, options={"key_bits": 4, "value_bits": 1})
    assert found["kind"] == "NoCodebookError"


@pytest.mark.hub
@pytest.mark.parametrize("lie", ["name", "shape"])
def test_a_card_that_lies_about_its_model_is_passed_over(hub, warm, owners, tmp_path, lie):
    (maker, token), *_ = owners.items()
    model, made_for = f"{maker}/tiny-llama", f"{maker}/tiny-llama" if lie == "shape" else "org/another"
    warm.call("push", f"{maker}/book", name=made_for, token=token)
    repository = hub.store.repositories["model", f"{maker}/book"]
    files = dict(repository.commits[repository.resolve("main")].files)
    files["README.md"] = File(files["README.md"].data.replace(made_for.encode(), model.encode()))
    repository.commit("refs/heads/main", files, "another claim", maker)
    assert [item["name"] for item in warm.call("find", model)] == [f"{maker}/book"]  # the claim is believed here
    changes = {"num_hidden_layers": 3} if lie == "shape" else {}
    finished = warm.wait(warm.begin("automatic", name=model, **changes))
    assert "found none" in finished.result["error"]
    assert f'codebook="auto" passes over {maker}/book: it was made for' in finished.stderr


@pytest.mark.hub
def test_the_model_s_config_comes_first(hub, warm, owners, tmp_path):
    (maker, token), (friend, second), _ = owners.items()
    model = f"{maker}/tiny-llama"
    warm.call("push", f"{maker}/book", name=model, token=token)
    old = warm.call("push", f"{friend}/named", name=model, token=second)
    warm.call("push", f"{friend}/named", name=model, seed=1, token=second)
    named = {"quant_method": "vecinfer", "codebook": f"{friend}/named", "revision": old["commit"]}
    # A downloaded config may not send the user to an owner of its choice ...
    assert warm.call("automatic", name=model, quantization=named)["codebook"] == f"{maker}/book"
    # ... unless the user allows that owner, or the model is the user's own directory.
    options = {"trusted_owners": [friend]}
    finished = warm.wait(warm.begin("automatic", name=model, quantization=named, options=options))
    assert finished.result == {"codebook": f"{friend}/named", "revision": old["commit"]}
    assert f"took {friend}/named because the model's config names it" in finished.stderr
    local = warm.call("automatic", name=f"/somewhere/{model}", quantization=named)
    assert local["revision"] == old["commit"]


def test_shipped_ones_are_matched_by_name_and_shape(shipped_root):
    tiny_codebook().save_pretrained(shipped_root / "tiny-llama" / "2bit")
    tiny_codebook(bits=4).save_pretrained(shipped_root / "tiny-llama" / "4bit")
    tiny_codebook(name="org/another").save_pretrained(shipped_root / "another" / "2bit")
    found = find_codebooks(named_config("elsewhere/Tiny-LLaMA"), search=False)
    assert [(item.name, item.bits_per_element, item.source) for item in found] == [
        ("tiny-llama/2bit", 2, "shipped"),
        ("tiny-llama/4bit", 4, "shipped"),
    ]
    assert [item.name for item in find_codebooks(named_config("/a/dir/tiny-llama"), 4, search=False)] == [
        "tiny-llama/4bit"
    ]
    assert find_codebooks(named_config("x/tiny-llama", num_hidden_layers=3), search=False) == []
    assert find_codebooks(named_config("", num_hidden_layers=2), search=False) == []
    for bits, name in ((None, "tiny-llama/2bit"), (4, "tiny-llama/4bit"), ("d4b8x2", "tiny-llama/4bit")):
        codebook, _ = resolve(named_config("/a/dir/tiny-llama"), key_bits=bits)
        assert codebook.source == {"codebook": name}


def test_a_model_may_hold_a_config_object(tmp_path):
    """`generation_config.cache_config` takes a dictionary or a VecInferConfig; both name a codebook."""
    model = tiny_model("llama")
    for given in (VecInferConfig("me/book", subfolder="2bit"), VecInferConfig("me/book", subfolder="2bit").to_dict()):
        model.generation_config.cache_config = given
        (found,) = find_codebooks(model, search=False)
        assert (found.name, found.subfolder, found.source) == ("me/book", "2bit", "model config")


def test_the_hub_is_not_asked_for_what_is_here(shipped_root, monkeypatch):
    def on_hub(*arguments):
        raise AssertionError("asked")

    monkeypatch.setattr(search, "_on_hub", on_hub)
    with pytest.raises(AssertionError, match="asked"):
        resolve(named_config("x/tiny-llama"))
    tiny_codebook().save_pretrained(shipped_root / "tiny-llama" / "2bit")
    assert resolve(named_config("x/tiny-llama"))[0].source == {"codebook": "tiny-llama/2bit"}


def test_a_broken_shipped_codebook_does_not_hide_the_others(shipped_root):
    tiny_codebook().save_pretrained(shipped_root / "tiny-llama" / "2bit")
    (shipped_root / "tiny-llama" / "1bit").mkdir()
    (shipped_root / "tiny-llama" / "1bit" / "config.json").write_text("{")
    assert [item.name for item in find_codebooks(named_config("x/tiny-llama"), search=False)] == ["tiny-llama/2bit"]


@pytest.mark.parametrize("bits", [0, -1, float("nan"), float("inf"), 17, "2"])
def test_bits_that_no_codebook_has(bits):
    for name in ("bits", "key_bits", "value_bits"):
        with pytest.raises(ConfigError, match="bits"):
            find_codebooks(named_config("x/tiny-llama"), **{name: bits}, search=False)


def test_nothing_known(shipped_root):
    with pytest.raises(CodebookError, match="vecinfer calibrate /a/model"):
        resolve(named_config("/a/model"))


def test_one_that_cannot_be_read_is_passed_over(shipped_root, caplog):
    """Its config.json is good, so it is found; its tensors are not."""
    for name in ("1bit", "2bit"):
        tiny_codebook(seed=len(name)).save_pretrained(shipped_root / "tiny-llama" / name)
    path = shipped_root / "tiny-llama" / "1bit" / "codebook.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert resolve(named_config("x/tiny-llama"))[0].source == {"codebook": "tiny-llama/2bit"}


def test_what_is_kept_in_memory_depends_on_what_was_asked_for(shipped_root, monkeypatch):
    monkeypatch.setattr("vecinfer_hf.hub.search._on_hub", lambda *_: iter(()))
    tiny_codebook().save_pretrained(shipped_root / "tiny-llama" / "2bit")
    first, _ = resolve(named_config("x/tiny-llama"))
    assert resolve(named_config("x/tiny-llama"))[0] is first
    assert resolve(named_config("x/tiny-llama"), key_bits=2)[0] is not first
    assert resolve(named_config("x/tiny-llama"), trusted_owners=["a"])[0] is not first
    with pytest.raises(CodebookError, match="found none"):
        resolve(named_config("x/tiny-llama", num_hidden_layers=3))
    forget_codebooks()
    assert resolve(named_config("x/tiny-llama"))[0] is not first


def test_auto_has_no_place():
    with pytest.raises(ConfigError, match=r"\['subfolder'\] say where a codebook lies"):
        resolve(named_config("x/tiny-llama"), subfolder="2bit")


def test_a_model_s_config_may_hold_anything(shipped_root):
    """Configs come from anybody too."""
    for named in (5, "auto", "online", "", None, ["x"]):
        config = named_config("x/tiny-llama")
        config.quantization_config = {"quant_method": "vecinfer", "codebook": named}
        assert find_codebooks(config, search=False) == []


@pytest.mark.hub
def test_a_search_that_fails_is_no_more_than_a_warning(hub, warm):
    refused = hub.fault("GET /api/models[?]", times=99, status=403)
    finished = warm.wait(warm.begin("find", "org/tiny-llama"))
    assert refused.hits == 1
    assert finished.result == []
    assert "could not be searched" in finished.stderr
