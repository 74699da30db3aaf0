# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The endpoints of the local Hub: what each address answers.

Owns the form of requests and answers; hub_server.py owns the HTTP machinery, hub_store.py the state and the rules.
"""

from __future__ import annotations

import base64
import json
import re

from hub_store import LFS_SUFFIXES, File, HubError, Repository, Token, parse_card


ROUTES: list[tuple[str, re.Pattern, str]] = []


def route(method: str, pattern: str):
    """Register a handler method for a path; {kind}, {id}, {rev} and {path} stand for their usual shapes."""
    shapes = {"kind": r"(?P<kind>models|kernels)", "id": r"(?P<id>[^/]+/[^/]+)", "rev": r"(?P<rev>[^/]+)"}
    shapes |= {"path": r"(?P<path>.+)", "prefix": r"(?P<prefix>kernels/)?"}
    for name, shape in shapes.items():
        pattern = pattern.replace("{" + name + "}", shape)

    def register(function):
        ROUTES.append((method, re.compile(pattern), function.__name__))
        return function

    return register


class Endpoints:
    """Mixed into the request handler, which provides `hub`, `body`, `query` and `headers`."""

    def _who(self) -> Token | None:
        header = self.headers.get("Authorization")
        return self.hub.store.who(header.removeprefix("Bearer ") if header else None)

    def _repository(self, kind: str, id: str, *, write: bool = False) -> Repository:
        return self.hub.store.repository(kind.rstrip("s"), id, self._who(), write=write)

    def _page(self, repository: Repository) -> str:
        return f"{self.hub.url}/{'kernels/' if repository.kind == 'kernel' else ''}{repository.id}"

    # ---- accounts

    @route("GET", "/api/whoami-v2")
    def whoami(self):
        who = self._who()
        if who is None:
            raise HubError(401, "Invalid username or password.")
        return {"type": "user", "name": who.user, "auth": {"accessToken": {"role": "write" if who.write else "read"}}}

    @route("GET", "/api/organizations/(?P<name>[^/]+)/overview")
    def organization(self, name):
        trusted = name in self.hub.store.trusted_kernel_publishers
        return {"name": name, "fullname": name, "avatarUrl": "", "trustedKernelPublisher": trusted}

    @route("GET", "/api/agent-harnesses")
    def agent_harnesses(self):
        return {"harnesses": []}

    # ---- writing

    @route("POST", "/api/repos/create")
    def create(self):
        asked = json.loads(self.body)
        private = asked.get("private") or asked.get("visibility") == "private"
        kind = asked.get("type") or "model"
        try:
            repository = self.hub.store.create(kind, asked["name"], asked.get("organization"), private, self._who())
        except HubError as error:
            if error.status == 409:  # the clients read the address of what exists already
                error.more["url"] = self._page(self.hub.store.repositories[kind, error.more["name"]])
            raise
        return {
            "url": f"{self.hub.url}/{'kernels/' if kind == 'kernel' else ''}{repository.id}",
            "name": repository.id,
        }

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self):
        try:
            parse_card(json.loads(self.body)["content"])
        except HubError as error:
            body = json.dumps({"errors": [{"message": error.message}], "warnings": []}).encode()
            return error.status, {"Content-Type": "application/json"}, body
        return {"errors": [], "warnings": []}

    @route("POST", "/api/{kind}/{id}/preupload/{rev}")
    def preupload(self, kind, id, rev):
        repository = self._repository(kind, id, write="create_pr" not in self.query)
        present = repository.commits[repository.resolve(rev)].files
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                    "shouldIgnore": False,
                    "oid": present[file["path"]].etag if file["path"] in present else None,
                }
                for file in json.loads(self.body)["files"]
            ]
        }

    @route("POST", "/{prefix}{id}[.]git/info/lfs/objects/batch")
    def lfs_batch(self, id, prefix="models"):
        self._repository(prefix.rstrip("/"), id)
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if item["oid"] not in self.hub.store.lfs:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs-upload/{item['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    @route("PUT", "/lfs-upload/(?P<oid>[0-9a-f]{64})")
    def lfs_upload(self, oid):
        if File(self.body, lfs=True).sha256 != oid:
            raise HubError(400, "The content does not have the announced SHA-256.")
        self.hub.store.lfs[oid] = self.body
        return {}

    @route("POST", "/api/{kind}/{id}/commit/{rev}")
    def commit(self, kind, id, rev):
        create_pr = "create_pr" in self.query
        repository = self._repository(kind, id, write=not create_pr)
        who = self._who()
        if who is None or not who.write:
            raise HubError(403, "A token with write access is needed.")
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header, operations = lines[0]["value"], lines[1:]
        base = repository.resolve(rev)
        if header.get("parentCommit") not in (None, base):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        ref = repository.open_pull_request(base) if create_pr else repository.ref_name(rev)
        if ref is None:
            raise HubError(403, "Commits go to a branch, not to a commit id.")
        files = self._apply(dict(repository.commits[base].files), operations)
        oid = repository.commit(ref, files, header["summary"], who.user)
        page = self._page(repository)
        return {
            "success": True,
            "commitOid": oid,
            "commitUrl": f"{page}/commit/{oid}",
            "pullRequestUrl": f"{page}/discussions/{ref.rsplit('/', 1)[1]}" if create_pr else None,
        }

    def _apply(self, files: dict[str, File], operations: list[dict]) -> dict[str, File]:
        for operation in operations:
            key, value = operation["key"], operation["value"]
            path = value["path"]
            if key == "file":
                files[path] = File(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                files[path] = File(self.hub.store.lfs[value["oid"]], lfs=True)
            elif key == "deletedFile":
                files.pop(path, None)
            elif key == "deletedFolder":
                files = {name: file for name, file in files.items() if not name.startswith(path.rstrip("/") + "/")}
            else:
                raise HubError(400, f"Unknown operation {key}")
        return files

    @route("POST", "/api/{kind}/{id}/branch/{rev}")
    def create_branch(self, kind, id, rev):
        repository = self._repository(kind, id, write=True)
        if f"refs/heads/{rev}" in repository.refs:
            raise HubError(409, f"Reference already exists: {rev}")
        start = json.loads(self.body or b"{}").get("startingPoint") or "main"
        repository.refs[f"refs/heads/{rev}"] = repository.resolve(start)
        return {}

    @route("POST", "/api/{kind}/{id}/tag/{rev}")
    def create_tag(self, kind, id, rev):
        repository, tag = self._repository(kind, id, write=True), json.loads(self.body)["tag"]
        if f"refs/tags/{tag}" in repository.refs:
            raise HubError(409, f"Reference already exists: {tag}")
        repository.refs[f"refs/tags/{tag}"] = repository.resolve(rev)
        return {}

    @route("POST", "/api/{kind}/{id}/discussions/(?P<number>[0-9]+)/merge")
    def merge(self, kind, id, number):
        self._repository(kind, id, write=True).merge(int(number), self._who().user)
        return {}

    # ---- reading

    @route("GET", "/api/{kind}/{id}/refs")
    def refs(self, kind, id):
        found = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
        lists = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}
        for ref, oid in self._repository(kind, id).refs.items():
            _, group, name = ref.split("/", 2)
            found[lists[group]].append({"name": name, "ref": ref, "targetCommit": oid})
        return found

    @route("GET", "/api/{kind}/{id}/tree/{rev}(?:/(?P<path>.+))?")
    def tree(self, kind, id, rev, path=""):
        repository = self._repository(kind, id)
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        prefix = path.rstrip("/") + "/" if path else ""
        entries: dict[str, dict] = {}
        for name, file in sorted(repository.commits[repository.resolve(rev)].files.items()):
            if not name.startswith(prefix):
                continue
            folders = name[len(prefix) :].split("/")[:-1]
            for depth in range(1, len(folders) + 1):
                folder = prefix + "/".join(folders[:depth])
                if recursive or depth == 1:
                    oid = repository.resolve(rev)
                    entries[folder] = {"type": "directory", "path": folder, "oid": oid, "size": 0}
            if recursive or not folders:
                entries[name] = {"type": "file", "path": name, **file.entry()}
        if path and not entries:
            raise HubError(404, f"{path} does not exist on {rev}", "EntryNotFound")
        return list(entries.values())

    @route("GET", "/api/{kind}/{id}(?:/revision/{rev})?")
    def info(self, kind, id, rev="main"):
        repository = self._repository(kind, id)
        return repository.info(rev, blobs="blobs" in self.query)

    @route("GET", "/api/{kind}/{id}/commits/{rev}")
    def commits(self, kind, id, rev):
        repository, found = self._repository(kind, id), []
        oid = repository.resolve(rev)
        while oid is not None:
            commit = repository.commits[oid]
            found.append({"id": oid, "title": commit.title, "message": "", "authors": [{"user": commit.author}]})
            found[-1]["date"] = commit.date.isoformat().replace("+00:00", ".000Z")
            oid = commit.parent
        return found

    @route("GET", "/api/models")
    def search(self):
        asked, who = self.query, self._who()
        wanted = {tag for value in asked.get("filter", []) for tag in value.split(",")}
        author, text = asked.get("author", [None])[0], asked.get("search", [""])[0].lower()
        return [
            repository.info("main", blobs=False)
            for (kind, _), repository in self.hub.store.repositories.items()
            if kind == "model"
            and self.hub.store.may_read(who, repository)
            and author in (None, repository.owner)
            and text in repository.id.lower()
            and wanted <= set(repository.tags())
        ]

    @route("GET", "/{prefix}{id}/resolve/{rev}/{path}")
    def resolve(self, id, rev, path, prefix="models"):
        repository = self._repository(prefix.rstrip("/"), id)
        file, commit = repository.file(rev, path), repository.resolve(rev)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not file.lfs:
            return self._ranged(file.data, headers | {"ETag": f'"{file.oid}"'})
        self.hub.store.lfs[file.sha256] = file.data
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
        return 302, headers | {"Location": f"{self.hub.cdn_url}/lfs-download/{file.sha256}?signed=1"}, b""

    @route("GET", "/lfs-download/(?P<oid>[0-9a-f]{64})")
    def lfs_download(self, oid):
        if "signed" not in self.query or "Authorization" in self.headers:
            raise HubError(403, "Not a signed address.")
        return self._ranged(self.hub.store.lfs[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _ranged(self, data: bytes, headers: dict[str, str]):
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return 200, headers, data
        first, last = int(asked[1]), int(asked[2] or len(data) - 1)
        if first >= len(data):
            return 416, headers | {"Content-Range": f"bytes */{len(data)}"}, b""
        return 206, headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1]
