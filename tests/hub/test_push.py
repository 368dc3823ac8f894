"""A push brings all or nothing, sends only what changed, and says what went wrong: the real client, a Hub nearby."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import _http

from subcell_hf.errors import InputError
from subcell_hf.hub.publishing.push import Content, collect_files, plan_push, push_files
from tests.hub.loopback_hub import Fault, LoopbackHub

NAME = "subcell/tiny"
FILES: dict[str, Content] = {"README.md": b"# Tiny\n", "model.safetensors": b"weights" * 300, "a/b.json": b"{}"}


def test_a_plan_says_what_would_travel_and_sends_nothing(hub: LoopbackHub, api: HfApi) -> None:
    plan = plan_push(FILES, NAME, api=api)
    assert [(file.path, file.size_bytes, file.change) for file in plan.files] == [
        ("README.md", 7, "new"),
        ("a/b.json", 2, "new"),
        ("model.safetensors", 2100, "new"),
    ]
    assert plan.parent_commit is None
    assert "To upload: 3 of 3 files, 2.1 kB" in plan.describe()
    assert not hub.repositories
    assert not hub.uploads()


def test_one_commit_brings_everything(hub: LoopbackHub, api: HfApi) -> None:
    push_files(FILES, NAME, private=True, message="First", api=api)
    repository = hub.repositories["model", NAME]
    assert {path: stored.content for path, stored in repository.files.items()} == FILES
    assert repository.files["model.safetensors"].lfs
    assert repository.messages == ["First"]
    assert repository.private


def test_a_second_push_changes_only_what_changed(hub: LoopbackHub, api: HfApi) -> None:
    push_files(FILES, NAME, api=api)
    hub.log.clear()
    assert not push_files(FILES, NAME, api=api).travelling
    assert not hub.uploads()
    plan = push_files(FILES | {"README.md": b"# Teeny\n"}, NAME, api=api)
    assert [file.path for file in plan.travelling] == ["README.md"]
    assert [line.split()[0] for line in hub.uploads()] == ["POST"]  # no large file went
    assert hub.repositories["model", NAME].files["README.md"].content == b"# Teeny\n"


def test_files_that_only_the_hub_has_are_kept_and_named(hub: LoopbackHub, api: HfApi) -> None:
    push_files(FILES, NAME, api=api)
    fewer = {path: content for path, content in FILES.items() if path != "a/b.json"}
    plan = push_files(fewer | {"new.txt": b"x"}, NAME, api=api)
    assert plan.kept == ("a/b.json",)
    assert "a/b.json" in hub.repositories["model", NAME].files


@pytest.mark.parametrize(
    ("pattern", "what"), [("POST .*/commit/", "status 500"), ("PUT /_lfs", "status 500"), ("/preupload/", "status 500")]
)
def test_an_interrupted_push_leaves_the_old_commit(
    pattern: str, what: str, hub: LoopbackHub, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)  # between the client's own retries
    push_files(FILES, NAME, api=api)
    repository = hub.repositories["model", NAME]
    before, commits = repository.branches["main"], len(repository.commits)
    changed = {path: b"other " + bytes(content) for path, content in FILES.items()}  # type: ignore[arg-type]
    hub.faults.append(Fault(pattern, 500))
    with pytest.raises(InputError, match=f"{what}.*The branch is unchanged"):
        push_files(changed, NAME, api=api)
    assert repository.branches["main"] == before
    assert len(repository.commits) == commits
    hub.faults.clear()
    push_files(changed, NAME, api=api)
    assert {path: stored.content for path, stored in repository.files.items()} == changed


def test_large_files_that_arrived_are_not_sent_again(hub: LoopbackHub, api: HfApi) -> None:
    shards: dict[str, Content] = {f"shard-{n}.tar": bytes([n]) * 5000 for n in range(4)}
    hub.faults.append(Fault("POST .*/commit/", 500, times=1))
    with pytest.raises(InputError, match=r"[Rr]un the same command again"):
        push_files(shards, NAME, "dataset", api=api)
    hub.log.clear()
    push_files(shards, NAME, "dataset", api=api)
    assert not [line for line in hub.log if line.startswith("PUT")]
    assert set(hub.repositories["dataset", NAME].files) == shards.keys()


def test_two_pushes_at_once_do_not_mix(hub: LoopbackHub, api: HfApi) -> None:
    push_files(FILES, NAME, api=api)
    hub.faults.append(Fault("POST .*/commit/", 412))
    with pytest.raises(InputError, match="subcell/tiny was changed by another push"):
        push_files(FILES | {"README.md": b"mine"}, NAME, api=api)


def test_a_token_is_needed_and_needs_rights(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subcell_hf.hub.publishing.push.get_token", lambda: None)
    with pytest.raises(InputError, match=r"No token found to push to subcell/tiny.*hf auth login"):
        push_files(FILES, NAME, api=HfApi(endpoint=hub.url, token=False))
    with pytest.raises(InputError, match="rejected the token"):
        push_files(FILES, NAME, api=HfApi(endpoint=hub.url, token="hf_wrong"))
    with pytest.raises(InputError, match=r"no write access to subcell/tiny.*write token"):
        push_files(FILES, NAME, api=HfApi(endpoint=hub.url, token="hf_read"))
    assert not hub.repositories


def test_revisions(hub: LoopbackHub, api: HfApi) -> None:
    push_files(FILES, NAME, api=api)
    with pytest.raises(InputError, match=r"no revision 'v2'.*--create-revision"):
        push_files(FILES | {"README.md": b"2"}, NAME, revision="v2", api=api)
    push_files(FILES | {"README.md": b"2"}, NAME, revision="v2", create_revision=True, api=api)
    repository = hub.repositories["model", NAME]
    assert repository.files["README.md"].content == FILES["README.md"]
    assert repository.commits[repository.branches["v2"]]["README.md"].content == b"2"


def test_names_offline_and_unreachable(api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="has no owner"):
        plan_push(FILES, "tiny", api=api)
    with pytest.raises(InputError, match="not a valid repository name"):
        plan_push(FILES, "subcell/../x", api=api)
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    with pytest.raises(InputError, match=r"cannot be reached.*HF_ENDPOINT"):
        plan_push(FILES, NAME, api=HfApi(endpoint="http://127.0.0.1:9", token="hf_write"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        plan_push(FILES, NAME, api=api)


def test_links_and_pickles_are_not_published(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "x.txt").write_text("x")
    (tmp_path / "good" / ".DS_Store").write_text("x")
    assert collect_files(tmp_path / "good") == {"x.txt": tmp_path / "good" / "x.txt"}
    (tmp_path / "good" / "pytorch_model.bin").write_text("x")
    with pytest.raises(InputError, match=r"pytorch_model.bin may be a pickle"):
        collect_files(tmp_path / "good")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "secret").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="secret is a link"):
        collect_files(tmp_path / "linked")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is empty"):
        collect_files(tmp_path / "empty")
