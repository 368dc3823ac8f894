"""Uploads to the Hugging Face Hub: what would go, and one commit that brings it there or changes nothing.

Large files are uploaded first; the commit that names them comes last and is based on the commit that was compared with.
So a push that breaks off leaves the branch as it was, the next one finds the large files that had arrived, and what is
the same on both sides does not travel.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from subcell_hf.errors import InputError, counted, transport_error

Kind = Literal["model", "dataset", "space"]
Content = Path | bytes
"""A file on this machine, or the bytes of one that is made for the push."""

PICKLED_SUFFIXES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
"""Files that run code when they are loaded; they are not published, weights of OpenVINO beside its `.xml` excepted."""

NO_TOKEN = "run `hf auth login`, or set HF_TOKEN to a token with the right to write from hf.co/settings/tokens"
"""How to get a token, for messages."""


@dataclass(frozen=True)
class PlannedFile:
    """One file of a push.

    Attributes:
        path: In the repository, with `/`.
        size_bytes: Size.
        change: `"new"`, `"changed"` or `"unchanged"`; only the first two travel.
    """

    path: str
    size_bytes: int
    change: str


@dataclass(frozen=True)
class PushPlan:
    """What a push will do.

    Attributes:
        repository: `"owner/name"`.
        kind: `"model"`, `"dataset"` or `"space"`.
        revision: Branch.
        parent_commit: Commit that the files were compared with; None where the repository does not exist yet.
        files: All files, sorted by path.
        kept: Files that only the Hub has; a push leaves them there.
    """

    repository: str
    kind: Kind
    revision: str
    parent_commit: str | None
    files: tuple[PlannedFile, ...]
    kept: tuple[str, ...] = ()

    @property
    def travelling(self) -> tuple[PlannedFile, ...]:
        """The files that are uploaded."""
        return tuple(file for file in self.files if file.change != "unchanged")

    def describe(self) -> str:
        """The plan as text, one line per file with its size and what happens to it."""
        new = ", a new repository" if self.parent_commit is None else ""
        lines = [f"{self.kind} {self.repository}, revision {self.revision}{new}"]
        width = max((len(file.path) for file in self.files), default=0)
        lines += [f"  {file.path:<{width}}  {readable_size(file.size_bytes):>9}  {file.change}" for file in self.files]
        lines += [f"  {path:<{width}}  {'':>9}  only on the Hub, kept" for path in self.kept]
        total = sum(file.size_bytes for file in self.travelling)
        upload = f"To upload: {len(self.travelling)} of {counted(len(self.files), 'file')}, {readable_size(total)}"
        return "\n".join([*lines, upload])


def collect_files(folder: Path) -> dict[str, Content]:
    """Collect the files of a folder; hidden files and Python's caches are left out.

    Args:
        folder: The folder.

    Returns:
        Path in the repository → file.

    Raises:
        InputError: If there is no such folder, or it holds a link or a pickle.
    """
    if not folder.is_dir():
        raise InputError(f"The folder {folder} does not exist: give an output folder of `subcell export`.")
    found: dict[str, Content] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") or part == "__pycache__" for part in name.split("/")):
            continue
        if path.is_symlink():
            raise InputError(f"{path} is a link and could publish files outside the folder: replace it with a file.")
        of_openvino = path.suffix == ".bin" and path.with_suffix(".xml").is_file()
        if path.suffix.lower() in PICKLED_SUFFIXES and not of_openvino:
            raise InputError(
                f"{path} may be a pickle, and loading a pickle runs code: remove it. `subcell export` writes weights "
                "as safetensors."
            )
        if path.is_file():
            found[name] = path
    if not found:
        raise InputError(f"{folder} is empty: give an output folder of `subcell export`.")
    return found


def plan_push(
    files: Mapping[str, Content],
    repository: str,
    kind: Kind = "model",
    revision: str = "main",
    api: HfApi | None = None,
) -> PushPlan:
    """Compare files with what the Hub has.

    Args:
        files: Path in the repository → content.
        repository: `"owner/name"`.
        kind: Kind of repository.
        revision: Branch.
        api: Client; None for one with the user's own settings.

    Raises:
        InputError: If the name is none, the branch does not exist, or the Hub refuses or cannot be reached.
    """
    api = api or HfApi()
    _check_name(repository)
    with explaining_failures(repository, revision, api):
        try:
            parent = api.repo_info(repository, repo_type=kind, revision=revision).sha
        except RevisionNotFoundError:
            raise
        except RepositoryNotFoundError:
            parent = None
        remote: dict[str, RepoFile] = {}
        if parent is not None:
            listed = api.list_repo_tree(repository, repo_type=kind, revision=parent, recursive=True)
            remote = {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}
    planned = [_plan_file(path, content, remote.get(path)) for path, content in sorted(files.items())]
    kept = sorted(path for path in remote.keys() - files.keys() if not path.startswith("."))
    return PushPlan(repository, kind, revision, parent, tuple(planned), tuple(kept))


def push_files(
    files: Mapping[str, Content],
    repository: str,
    kind: Kind = "model",
    *,
    revision: str = "main",
    create_revision: bool = False,
    private: bool = False,
    message: str = "Publish with subcell_hf",
    space_sdk: str | None = None,
    api: HfApi | None = None,
) -> PushPlan:
    """Bring files to a repository in one commit; the repository is made where there is none.

    Args:
        files: Path in the repository → content.
        repository: `"owner/name"`.
        kind: Kind of repository.
        revision: Branch.
        create_revision: Whether to make the branch, from `main`, where there is none.
        private: Whether a repository that is made is private; one that exists stays as it is.
        message: Of the commit.
        space_sdk: Of a Space that is made, for example `"gradio"`.
        api: Client; None for one with the user's own settings.

    Returns:
        What was done.

    Raises:
        InputError: If there is no token, it has no rights, the branch does not exist, somebody else pushed meanwhile,
            or the Hub fails; nothing has changed there then.
    """
    api = api or HfApi()
    _check_name(repository)
    if not (api.token or get_token()):
        raise InputError(f"No token found to push to {repository}: {NO_TOKEN}.")
    with explaining_failures(repository, revision, api):
        if not api.repo_exists(repository, repo_type=kind):
            api.create_repo(repository, repo_type=kind, private=private, exist_ok=True, space_sdk=space_sdk)
        if create_revision:
            api.create_branch(repository, repo_type=kind, branch=revision, exist_ok=True)
    plan = plan_push(files, repository, kind, revision, api)
    if not plan.travelling:
        return plan
    with explaining_failures(repository, revision, api):
        api.create_commit(
            repository,
            [CommitOperationAdd(file.path, files[file.path]) for file in plan.travelling],
            commit_message=message,
            repo_type=kind,
            revision=revision,
            parent_commit=plan.parent_commit,
        )
    return plan


@contextmanager
def explaining_failures(repository: str, revision: str, api: HfApi) -> Iterator[None]:
    """Turn what can go wrong between here and the Hub into messages with a remedy."""
    try:
        yield
    except HFValidationError as error:
        raise InputError(f"{repository!r} is not a valid repository name: {error}") from error
    except RevisionNotFoundError as error:
        raise InputError(
            f"{repository} has no revision {revision!r}: check the name, or create the branch with --create-revision."
        ) from error
    except OfflineModeIsEnabled as error:
        raise InputError(f"HF_HUB_OFFLINE is set, so {api.endpoint} was not contacted: unset it to push.") from error
    except HfHubHTTPError as error:
        raise InputError(_explain_status(error, repository)) from error
    except RuntimeError as error:  # how the client reports a large file that did not arrive
        if not isinstance(error.__cause__, HfHubHTTPError):
            raise
        raise InputError(_explain_status(error.__cause__, repository)) from error
    except (transport_error(), ConnectionError, TimeoutError) as error:
        raise InputError(
            f"{api.endpoint} cannot be reached ({error}). Nothing has changed on the Hub; check the connection (and "
            "HF_ENDPOINT), then run the same command again."
        ) from error


def _explain_status(error: HfHubHTTPError, repository: str) -> str:
    status = error.response.status_code if error.response is not None else 0
    said = error.server_message or str(error).splitlines()[0]
    if status == 401:
        return f"The Hub rejected the token for {repository} ({said}): {NO_TOKEN}."
    if status == 403:
        return (
            f"The token has no write access to {repository} ({said}): ask its owner for write access, push to "
            f"another repository, or {NO_TOKEN}."
        )
    if status == 404:
        return f"{repository} does not exist, or your token cannot read it ({said}): check the name and its access."
    if status == 412:
        return f"{repository} was changed by another push in the meantime; nothing was uploaded. Run the command again."
    return (
        f"The Hub answered with status {status} for {repository} ({said}). The branch is unchanged; the Hub keeps "
        "uploaded large files for a while. Run the same command again to resume."
    )


def _check_name(repository: str) -> None:
    if "/" not in repository:
        raise InputError(f"{repository!r} has no owner: give OWNER/NAME, such as subcell/{repository}.")


def _plan_file(path: str, content: Content, remote: RepoFile | None) -> PlannedFile:
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if remote is None:
        return PlannedFile(path, size, "new")
    if remote.lfs is not None:
        same = size == remote.size and _digest(content, hashlib.sha256()) == remote.lfs.sha256
    else:
        # Git's name of a file: SHA-1 over a header and the content.
        same = size == remote.size and _digest(content, hashlib.sha1(b"blob %d\0" % size)) == remote.blob_id
    return PlannedFile(path, size, "unchanged" if same else "changed")


def _digest(content: Content, checksum: "hashlib._Hash") -> str:
    if isinstance(content, bytes):
        checksum.update(content)
        return checksum.hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, lambda: checksum).hexdigest()


def readable_size(count: int) -> str:
    """Bytes as text, such as `"2.1 kB"`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
