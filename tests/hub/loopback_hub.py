"""A Hugging Face Hub on this machine: the calls that huggingface_hub makes to push and to load, and faults on demand.

Repositories of models, datasets and Spaces live in memory; a commit is a mapping from paths to files, so that a test
can ask what stands where. Large files go through LFS as on the real Hub. The client finds it through `HF_ENDPOINT`
(read when huggingface_hub is imported) or `HfApi(endpoint=…)`.
"""

import base64
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".tar", ".parquet", ".npy", ".png")
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass(frozen=True)
class StoredFile:
    """Content of a file in a commit; `lfs` files are named by their SHA-256, others as git does."""

    content: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        if self.lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Repository:
    """Branches point to commits, commits hold files."""

    private: bool
    branches: dict[str, str]
    commits: dict[str, dict[str, StoredFile]]
    messages: list[str] = field(default_factory=list)
    sdk: str | None = None

    @property
    def gated(self) -> str | bool:
        """Whether conditions have to be accepted: here if the card has a text for that."""
        card = self.files.get("README.md")
        return "manual" if card is not None and b"\nextra_gated_prompt: " in card.content else False

    @property
    def files(self) -> dict[str, StoredFile]:
        """What the main branch holds."""
        return self.commits[self.branches["main"]]


@dataclass
class Fault:
    """Answers `status` to requests whose "METHOD path" fits the pattern: after the first `after`, `times` times."""

    pattern: str
    status: int
    after: int = 0
    times: int = 10**9
    code: str = "Fault"

    def strikes(self, request: str) -> bool:
        if not re.search(self.pattern, request):
            return False
        self.after -= 1
        if self.after >= 0 or self.times <= 0:
            return False
        self.times -= 1
        return True


@dataclass
class LoopbackHub:
    """State of the Hub: `tokens` may `write` or only `read`; `log` has "METHOD path" of every request."""

    tokens: dict[str, str] = field(default_factory=lambda: {"hf_write": "write", "hf_read": "read"})
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    collections: dict[str, dict[str, Any]] = field(default_factory=dict)
    large_files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    url: str = ""
    lock: Any = field(default_factory=threading.RLock)
    counter: Iterator[int] = field(default_factory=itertools.count)

    def new_commit(self) -> str:
        return hashlib.sha1(str(next(self.counter)).encode()).hexdigest()

    def uploads(self) -> list[str]:
        """Requests that carried content."""
        return [line for line in self.log if line.startswith("PUT ") or "/commit/" in line]


class RefusalError(Exception):
    """Ends a request with an error as the Hub words it."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        self.status, self.code, self.message = status, code, message or code


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: ClassVar[LoopbackHub]

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""

    def answer(self, status: int = 200, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers = {"Content_Type": "application/json", "Content_Length": str(len(body))} | headers
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        self.query, self.body = parse_qs(url.query), self._read_body()
        path, hub = unquote(url.path), self.hub
        with hub.lock:
            hub.log.append(f"{self.command} {path}")
            try:
                for fault in hub.faults:
                    if fault.strikes(hub.log[-1]):
                        raise RefusalError(fault.status, fault.code, "this failure is part of the test")
                for pattern, route in ROUTES:
                    if match := re.fullmatch(pattern, path):
                        return route(self, **match.groupdict())
                raise RefusalError(404, "RouteNotFound")
            except RefusalError as refusal:
                headers = {"X_Error_Code": refusal.code, "X_Error_Message": refusal.message}
                return self.answer(refusal.status, {"error": refusal.message}, **headers)

    def __getattr__(self, name: str) -> Any:
        """`do_GET`, `do_POST`, …: all methods are handled alike."""
        if name.startswith("do_"):
            return self.handle_request
        raise AttributeError(name)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def right(self) -> str | None:
        return self.hub.tokens.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def must_write(self) -> None:
        right = self.right()
        if right is None:
            raise RefusalError(401, "Unauthorized", "Invalid username or password.")
        if right != "write":
            raise RefusalError(403, "Forbidden", "You must use a write token to do this.")

    def repository(self, kind: str | None, name: str) -> Repository:
        found = self.hub.repositories.get((KINDS[kind or "models"], name))
        if found is None or (found.private and self.right() is None):
            raise RefusalError(404 if self.right() else 401, "RepoNotFound", "Repository not found")
        return found

    def files(self, repository: Repository, revision: str) -> tuple[str, dict[str, StoredFile]]:
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    # ---- Repositories ----

    def who_am_i(self) -> None:
        if self.right() is None:
            raise RefusalError(401, "Unauthorized", "Invalid username or password.")
        role = {"accessToken": {"role": self.right()}}
        self.answer(200, {"type": "user", "name": "subcell", "orgs": [], "auth": role})

    def validate_yaml(self) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def create(self) -> None:
        self.must_write()
        wanted = json.loads(self.body)
        kind, name = wanted.get("type") or "model", f"{wanted.get('organization') or 'subcell'}/{wanted['name']}"
        exists = (kind, name) in self.hub.repositories
        if kind == "space" and not wanted.get("sdk"):
            raise RefusalError(400, "BadRequest", "A Space needs an sdk.")
        if not exists:
            commit = self.hub.new_commit()
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            self.hub.repositories[kind, name] = Repository(
                private, {"main": commit}, {commit: {}}, sdk=wanted.get("sdk")
            )
        prefix = "" if kind == "model" else f"{kind}s/"
        self.answer(409 if exists else 200, {"url": f"{self.hub.url}/{prefix}{name}", "name": name, "id": name})

    def create_branch(self, kind: str, name: str, revision: str) -> None:
        self.must_write()
        repository = self.repository(kind, name)
        start = (json.loads(self.body or b"{}") or {}).get("startingPoint") or "main"
        repository.branches[revision] = self.files(repository, start)[0]
        self.answer(200, {})

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        repository = self.repository(kind, name)
        commit, files = self.files(repository, revision)
        time = "2026-01-01T00:00:00.000Z"
        record = {
            "_id": "0", "id": name, "modelId": name, "author": name.split("/")[0], "sha": commit, "tags": [],
            "private": repository.private, "downloads": 0, "likes": 0, "gated": repository.gated, "disabled": False,
            "lastModified": time, "createdAt": time, "siblings": [{"rfilename": path} for path in sorted(files)],
        }  # fmt: skip
        card = files["README.md"].content.decode() if "README.md" in files else ""
        if facts := dict(re.findall(r"^(license|license_name): (.+)$", card, re.MULTILINE)):
            record["cardData"] = facts
        self.answer(200, record, X_Repo_Commit=commit)

    def list_models(self) -> None:
        """Models of an owner whose card has a tag."""
        owner, tag = (self.query.get(name, [""])[0] for name in ("author", "filter"))
        found = [
            {"_id": "0", "id": name, "modelId": name, "tags": [tag], "private": False, "downloads": 0, "likes": 0}
            for (kind, name), repository in sorted(self.hub.repositories.items())
            if kind == "model" and name.split("/")[0] == owner and "README.md" in repository.files
            and f"\n- {tag}\n" in repository.files["README.md"].content.decode()
        ]  # fmt: skip
        self.answer(200, found)

    def references(self, kind: str, name: str) -> None:
        branches = self.repository(kind, name).branches.items()
        listed = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": commit} for b, commit in branches]
        self.answer(200, {"branches": listed, "tags": [], "converts": []})

    # ---- Collections ----

    def create_collection(self) -> None:
        self.must_write()
        wanted = json.loads(self.body)
        slug = f"{wanted['namespace']}/{wanted['title'].lower()}-0123456789abcdef01234567"
        if slug in self.hub.collections:
            return self.answer(409, {"slug": slug, "error": "This collection already exists"})
        if len(wanted.get("description", "")) > 150:
            raise RefusalError(400, "BadRequest", "description must be at most 150 characters")
        self.hub.collections[slug] = {
            "slug": slug, "title": wanted["title"], "owner": wanted["namespace"], "items": [], "position": 0,
            "lastUpdated": "2026-01-01T00:00:00.000Z", "private": wanted["private"], "theme": "green", "upvotes": 0,
            "description": wanted.get("description"),
        }  # fmt: skip
        return self.collection(slug)

    def collection(self, slug: str) -> None:
        if slug not in self.hub.collections:
            raise RefusalError(404, "NotFound", "Collection not found")
        self.answer(200, self.hub.collections[slug])

    def add_to_collection(self, slug: str) -> None:
        self.must_write()
        item, items = json.loads(self.body)["item"], self.hub.collections[slug]["items"]
        if any(other["id"] == item["id"] for other in items):
            raise RefusalError(409, "Conflict", "The item is already in the collection")
        self.repository(f"{item['type']}s", item["id"])
        items.append({"_id": str(len(items)), "position": len(items), **item})
        self.collection(slug)

    # ---- Reading ----

    def entries(self, files: dict[str, StoredFile], folder: str, recursive: bool) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        prefix = f"{folder}/" if folder else ""
        for path, stored in sorted(files.items()):
            if not path.startswith(prefix):
                continue
            parents = path.removeprefix(prefix).split("/")[:-1]
            for depth in range(1, len(parents) + 1 if recursive else min(len(parents), 1) + 1):
                above = prefix + "/".join(parents[:depth])
                found[above] = {"type": "directory", "path": above, "oid": "0" * 40, "size": 0}
            if recursive or not parents:
                found[path] = {"type": "file", "path": path, "size": len(stored.content), "oid": stored.oid[:40]}
                if stored.lfs:
                    found[path]["lfs"] = {"oid": stored.oid, "size": len(stored.content), "pointerSize": 134}
        return list(found.values())

    def tree(self, kind: str, name: str, revision: str, path: str | None = None) -> None:
        commit, files = self.files(self.repository(kind, name), revision)
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        listed = self.entries(files, path or "", recursive)
        if path and not listed:
            raise RefusalError(404, "EntryNotFound", f"{path} does not exist")
        self.answer(200, listed, X_Repo_Commit=commit)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        commit, files = self.files(self.repository(kind, name), revision)
        is_json = self.headers.get("Content-Type", "").startswith("application/json")
        wanted = json.loads(self.body) if is_json else parse_qs(self.body.decode())
        listed = [entry for entry in self.entries(files, "", True) if entry["path"] in wanted["paths"]]
        self.answer(200, listed, X_Repo_Commit=commit)

    def resolve(self, name: str, revision: str, path: str, kind: str | None = None) -> None:
        repository = self.repository(kind, name)
        commit, files = self.files(repository, revision)
        if repository.gated and self.right() != "write":
            raise RefusalError(403, "GatedRepo", f"Access to model {name} is restricted.")
        if path not in files:
            return self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content, tag = files[path].content, f'"{files[path].oid}"'
        headers = {"Content_Type": "application/octet-stream", "ETag": tag, "X_Repo_Commit": commit,
                   "X_Linked_Size": str(len(content)), "X_Linked_Etag": tag, "Accept_Ranges": "bytes"}  # fmt: skip
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self.answer(200, content, **headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
        return self.answer(206, content[first : last + 1], **headers)

    # ---- Writing ----

    def preupload(self, kind: str, name: str, revision: str) -> None:
        self.must_write()
        _, files = self.files(self.repository(kind, name), revision)
        answers = [
            {"path": item["path"], "uploadMode": "lfs" if item["path"].endswith(LARGE) else "regular",
             "shouldIgnore": False, "oid": files[item["path"]].oid if item["path"] in files else None}
            for item in json.loads(self.body)["files"]
        ]  # fmt: skip
        self.answer(200, {"files": answers})

    def lfs_batch(self, name: str) -> None:
        self.must_write()
        answers = []
        for wanted in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/_lfs/{wanted['oid']}", "header": {}}}
            answers.append(wanted if wanted["oid"] in self.hub.large_files else {**wanted, "actions": upload})
        self.answer(200, {"transfer": "basic", "objects": answers}, Content_Type="application/vnd.git-lfs+json")

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise RefusalError(422, "BadHash")
        self.hub.large_files[oid] = self.body
        self.answer(200)

    def commit(self, kind: str, name: str, revision: str) -> None:
        self.must_write()
        repository = self.repository(kind, name)
        parent, files = self.files(repository, revision)
        files = dict(files)
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    if value.get("parentCommit", parent) != parent:
                        raise RefusalError(412, "PreconditionFailed", "A commit has happened since.")
                    repository.messages.append(value["summary"])
                case "file":
                    files[value["path"]] = StoredFile(base64.b64decode(value["content"]), False)
                case "lfsFile":
                    files[value["path"]] = StoredFile(self.hub.large_files[value["oid"]], True)
                case "deletedFile":
                    files.pop(value["path"], None)
        new = self.hub.new_commit()
        repository.commits[new], repository.branches[revision] = files, new
        url = f"{self.hub.url}/{name}/commit/{new}"
        self.answer(200, {"success": True, "commitOid": new, "commitUrl": url, "pullRequestUrl": None})


_API, _NAME = r"/api/(?P<kind>models|datasets|spaces)", r"(?P<name>[^/]+/[^/]+)"
ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"/api/whoami-v2", Handler.who_am_i),
    (r"/api/validate-yaml", Handler.validate_yaml),
    (r"/api/repos/create", Handler.create),
    (r"/api/collections", Handler.create_collection),
    (r"/api/collections/(?P<slug>[^/]+/[^/]+)", Handler.collection),
    (r"/api/collections/(?P<slug>[^/]+/[^/]+)/items", Handler.add_to_collection),
    (rf"{_API}/{_NAME}/preupload/(?P<revision>.+)", Handler.preupload),
    (rf"{_API}/{_NAME}/commit/(?P<revision>.+)", Handler.commit),
    (rf"{_API}/{_NAME}/branch/(?P<revision>.+)", Handler.create_branch),
    (rf"{_API}/{_NAME}/revision/(?P<revision>.+)", Handler.info),
    (rf"{_API}/{_NAME}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", Handler.tree),
    (rf"{_API}/{_NAME}/paths-info/(?P<revision>.+)", Handler.paths_info),
    (rf"{_API}/{_NAME}/refs", Handler.references),
    (r"/api/models", Handler.list_models),
    (rf"{_API}/{_NAME}", Handler.info),
    (rf"/(?:datasets/|spaces/)?{_NAME}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (r"/_lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_put),
    (rf"/(?:(?P<kind>datasets|spaces)/)?{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]


def serve() -> tuple[ThreadingHTTPServer, LoopbackHub]:
    """Start a Hub on a free port; end it with `server.shutdown()`."""
    hub = LoopbackHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, hub
