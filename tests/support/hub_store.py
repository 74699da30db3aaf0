# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Repositories, commits, references and access rights of the local Hub that the tests talk to.

Owns the state and the rules; knows nothing of HTTP (hub_server.py does).
"""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

import yaml


MAIN = "refs/heads/main"
KINDS = ("model", "kernel")
# Like the Hub: binary files go to large file storage, small text files into the commit.
LFS_SUFFIXES = (".safetensors", ".so", ".bin", ".png")
_FIRST_DATE = datetime(2026, 1, 1, tzinfo=timezone.utc)


class HubError(Exception):
    """An answer other than 200: status, and the Hub's X-Error-Code and X-Error-Message."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: str):
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more


def git_id(kind: str, data: bytes) -> str:
    """The id git gives to an object: SHA-1 of its header and content."""
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data).hexdigest()


@dataclass(frozen=True)
class File:
    """One file of a commit. `claimed_size` lets a test serve a listing that lies."""

    data: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        if not self.lfs:
            return git_id("blob", self.data)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return git_id("blob", pointer.encode())

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def entry(self) -> dict:
        """What a listing says about it."""
        entry = {"oid": self.oid, "size": len(self.data)}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "sha256": self.sha256, "size": len(self.data), "pointerSize": 134}
        return entry


@dataclass(frozen=True)
class Commit:
    """A snapshot of all files, named by its content, its parent and its message."""

    files: dict[str, File]
    parent: str | None
    title: str
    author: str
    date: datetime

    @property
    def oid(self) -> str:
        tree = git_id("tree", "".join(f"{p} {f.oid}\n" for p, f in sorted(self.files.items())).encode())
        body = f"tree {tree}\nparent {self.parent}\nauthor {self.author} {self.date.isoformat()}\n\n{self.title}"
        return git_id("commit", body.encode())


@dataclass
class Repository:
    """Commits and references of one repository."""

    kind: str
    id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[int, str] = field(default_factory=dict)  # number -> "open" | "merged" | "closed"

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def ref_name(self, revision: str) -> str | None:
        """The full name of a branch, tag or `refs/...` revision; None if there is none."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name.startswith("refs/") and name in self.refs:
                return name
        return None

    def resolve(self, revision: str) -> str:
        name = self.ref_name(revision)
        if name is not None:
            return self.refs[name]
        if revision in self.commits:
            return revision
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def file(self, revision: str, path: str) -> File:
        files = self.commits[self.resolve(revision)].files
        if path not in files:
            raise HubError(404, f"Entry not found: {path}", "EntryNotFound")
        return files[path]

    def commit(self, ref: str, files: dict[str, File], title: str, author: str) -> str:
        parent = self.refs.get(ref)
        commit = Commit(files, parent, title, author, _FIRST_DATE + timedelta(seconds=len(self.commits)))
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit.oid

    def open_pull_request(self, base: str) -> str:
        number = len(self.pull_requests) + 1
        self.pull_requests[number] = "open"
        self.refs[f"refs/pr/{number}"] = base
        return f"refs/pr/{number}"

    def merge(self, number: int, author: str) -> str:
        if self.pull_requests.get(number) != "open":
            raise HubError(409, f"Pull request {number} is not open.")
        files = {**self.commits[self.refs[MAIN]].files, **self.commits[self.refs[f"refs/pr/{number}"]].files}
        self.pull_requests[number] = "merged"
        return self.commit(MAIN, files, f"Merge pull request #{number}", author)

    def card_metadata(self, revision: str = "main") -> dict:
        readme = self.commits[self.resolve(revision)].files.get("README.md")
        return parse_card(readme.data.decode()) if readme is not None else {}

    def tags(self) -> list[str]:
        """The tags the Hub derives from a card: its own, the library, the licence and the base model."""
        card = self.card_metadata()
        base = card.get("base_model") or []
        relation = card.get("base_model_relation")
        found = [*(card.get("tags") or ()), *filter(None, [card.get("library_name")])]
        found += [f"license:{card['license']}"] if "license" in card else []
        for model in [base] if isinstance(base, str) else base:
            found += [f"base_model:{model}"] + ([f"base_model:{relation}:{model}"] if relation else [])
        return list(dict.fromkeys(found))

    def info(self, revision: str, *, blobs: bool) -> dict:
        """What the Hub says about a repository at a revision, with the files' sizes and hashes if `blobs`."""
        oid = self.resolve(revision)
        siblings = []
        for path, file in sorted(self.commits[oid].files.items()):
            entry = file.entry()
            more = {"blobId": entry.pop("oid"), **entry} if blobs else {}
            siblings.append({"rfilename": path, **more})
        date = self.commits[self.refs[MAIN]].date.isoformat().replace("+00:00", ".000Z")
        return {
            "_id": oid[:24],
            "id": self.id,
            "modelId": self.id,
            "author": self.owner,
            "sha": oid,
            "lastModified": date,
            "createdAt": date,
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": self.tags(),
            "cardData": self.card_metadata(oid),
            "siblings": siblings,
        }


def parse_card(text: str) -> dict:
    """The YAML block of a README.md; raises HubError 400 where the Hub's check would."""
    match = re.match(r"\A---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    if match is None:
        return {}
    try:
        metadata = yaml.safe_load(match.group(1))
    except yaml.YAMLError as error:
        raise HubError(400, f"Invalid YAML: {error}") from error
    if not isinstance(metadata, dict):
        raise HubError(400, "The metadata is not a mapping.")
    for key in ("tags", "language"):
        value = metadata.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise HubError(400, f'"{key}" must be an array of strings')
    base = metadata.get("base_model", [])
    for model in [base] if isinstance(base, str) else base:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
            raise HubError(400, f'"base_model" with value "{model}" is not valid. Use a model id from the Hub.')
    if metadata.get("base_model_relation", "quantized") not in ("adapter", "merge", "quantized", "finetune"):
        raise HubError(400, f'"base_model_relation" has the unknown value "{metadata["base_model_relation"]}"')
    return metadata


@dataclass
class Token:
    """Who a token stands for; `write` is false for a read-only token."""

    user: str
    write: bool = True
    revoked: bool = False


class HubStore:
    """All repositories, users and tokens. Public methods take the lock: the server is threaded."""

    def __init__(self):
        self.lock = threading.RLock()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.tokens: dict[str, Token] = {}
        self.members: dict[str, set[str]] = {}  # organization -> users who may write
        self.trusted_kernel_publishers: set[str] = set()
        self.lfs: dict[str, bytes] = {}

    def add_user(self, user: str, *, organizations=(), write: bool = True) -> str:
        """Create a token for a user; returns the token."""
        token = f"hf_{user}_{len(self.tokens)}"
        self.tokens[token] = Token(user, write)
        for organization in organizations:
            self.members.setdefault(organization, set()).add(user)
        return token

    def revoke(self, token: str) -> None:
        self.tokens[token].revoked = True

    def who(self, token: str | None) -> Token | None:
        """The owner of a token; None without one; 401 for an unknown or revoked one."""
        if token is None:
            return None
        found = self.tokens.get(token)
        if found is None or found.revoked:
            raise HubError(401, "Invalid credentials in Authorization header")
        return found

    def may_write(self, who: Token | None, owner: str) -> bool:
        return who is not None and who.write and (who.user == owner or who.user in self.members.get(owner, ()))

    def may_read(self, who: Token | None, repository: Repository) -> bool:
        owner = repository.owner
        return not repository.private or (
            who is not None and (who.user == owner or who.user in self.members.get(owner, ()))
        )

    def create(self, kind: str, name: str, owner: str | None, private: bool, who: Token | None) -> Repository:
        if who is None:
            raise HubError(401, "Invalid username or password.")
        owner = owner or who.user
        if not self.may_write(who, owner):
            raise HubError(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        with self.lock:
            key = (kind, f"{owner}/{name}")
            if key in self.repositories:
                raise HubError(409, "You already created this model repo", name=key[1])
            repository = self.repositories[key] = Repository(kind, key[1], private)
            attributes = "".join(f"*{s} filter=lfs diff=lfs merge=lfs -text\n" for s in LFS_SUFFIXES)
            repository.commit(MAIN, {".gitattributes": File(attributes.encode())}, "initial commit", who.user)
            return repository

    def repository(self, kind: str, repo_id: str, who: Token | None, *, write: bool = False) -> Repository:
        """The repository, if `who` may use it; the Hub's 401, 403 or 404 otherwise."""
        repository = self.repositories.get((kind, repo_id))
        if repository is None or not self.may_read(who, repository):
            if who is None:  # the Hub does not tell the anonymous whether a repository exists
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        if repository.gated and not self.may_write(who, repository.owner):
            raise HubError(403 if who else 401, f"Access to {repo_id} is restricted.", "GatedRepo")
        if write and who is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        if write and not self.may_write(who, repository.owner):
            raise HubError(403, f"You are not authorized to write to {repo_id}")
        return repository
