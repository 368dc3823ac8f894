"""Published weights are fetched from a server of the published layout, whatever happens on the way."""

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoImageProcessor, AutoModelForImageClassification

from subcell_hf.errors import InputError
from subcell_hf.storage.downloads import files as downloads
from subcell_hf.storage.downloads.files import FileFacts, download_file, look_up_file
from subcell_hf.weights import fetching
from subcell_hf.weights.conversion import convert
from subcell_hf.weights.fetching import fetch_weights, fetched_folder
from subcell_hf.weights.published_variants import published_variants
from tests.weights.published_layout import Bucket, draw_published_files, serve_bucket, write_files


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A server without files."""
    monkeypatch.setattr(downloads, "_FIRST_WAIT_S", 0.01)
    with serve_bucket({}) as served:
        yield served


@pytest.fixture(scope="module")
def weights() -> dict[str, bytes]:
    """Small weights of all published names."""
    return draw_published_files()


def test_a_variant_loads_and_gives_the_numbers_of_its_files(
    bucket: Bucket, weights: dict[str, bytes], tmp_path: Path
) -> None:
    bucket.files = weights
    fetched = fetch_weights("mae-rybg", source=bucket.url, cache=tmp_path / "cache", progress=False)
    assert fetched.new
    assert fetched.folder == fetched_folder("mae-rybg", tmp_path / "cache")
    variant = published_variants()["mae-rybg"]
    write_files({name: weights[name] for name in variant.files}, tmp_path)
    by_hand = convert(
        tmp_path / variant.encoder, tmp_path / "by_hand", "rybg", [tmp_path / name for name in variant.classifiers]
    )
    models = [AutoModelForImageClassification.from_pretrained(folder) for folder in (fetched.folder, by_hand)]
    inputs = AutoImageProcessor.from_pretrained(by_hand)(torch.randint(0, 255, (1, 4, 64, 64), dtype=torch.uint8))
    with torch.no_grad():
        torch.testing.assert_close(models[0](**inputs).logits, models[1](**inputs).logits, rtol=0, atol=0)
    asked = len(bucket.requests)
    assert not fetch_weights("mae-rybg", source=bucket.url, cache=tmp_path / "cache").new
    assert len(bucket.requests) == asked  # nothing is asked for twice


def test_a_broken_transfer_goes_on_where_it_broke(bucket: Bucket, tmp_path: Path) -> None:
    bucket.files["a"] = bytes(range(256)) * 40_000
    bucket.cut_after["a"] = 3_000_000
    steps: list[int] = []
    facts = download_file(f"{bucket.url}/a", tmp_path / "a", advance=steps.append)
    assert (tmp_path / "a").read_bytes() == bucket.files["a"]
    assert sum(steps) == len(bucket.files["a"])
    assert [asked for _, asked in bucket.requests] == ["", "bytes=3000000-"]
    assert facts.sha256 == hashlib.sha256(bucket.files["a"]).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_without_a_network_what_came_is_kept(bucket: Bucket, tmp_path: Path) -> None:
    bucket.files["a"] = bytes(2_000_000)
    bucket.gone_after["a"] = 500_000
    bucket.redirected["b"] = "a"
    original = bucket.files["a"]
    with pytest.raises(InputError, match="500,000 bytes are kept in"):
        download_file(f"{bucket.url}/a", tmp_path / "a", progress=False)
    assert not (tmp_path / "a").exists()
    bucket.broken = False
    download_file(f"{bucket.url}/a", tmp_path / "a", progress=False)
    assert (tmp_path / "a").read_bytes() == original
    assert bucket.requests[-1] == ("a", "bytes=500000-")
    assert look_up_file(f"{bucket.url}/b") == look_up_file(f"{bucket.url}/a")
    download_file(f"{bucket.url}/b", tmp_path / "b", progress=False)
    assert (tmp_path / "b").read_bytes() == original


def test_a_server_that_stalls_is_asked_again(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_TIMEOUT_S", 0.3)
    bucket.files["a"] = bytes(range(256)) * 1000
    bucket.stall_after["a"] = 70_000
    download_file(f"{bucket.url}/a", tmp_path / "a", progress=False)
    assert (tmp_path / "a").read_bytes() == bucket.files["a"]
    assert bucket.requests == [("a", ""), ("a", "bytes=70000-")]


def test_of_two_that_need_a_model_one_downloads_it(bucket: Bucket, weights: dict[str, bytes], tmp_path: Path) -> None:
    bucket.files = weights
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(fetch_weights, "vit-bg", source=bucket.url, cache=tmp_path, progress=False) for _ in range(2)
        ]
        first, second = (each.result() for each in both)
    assert first.folder == second.folder
    assert sorted((first.new, second.new)) == [False, True]
    assert sorted(path for path, _ in bucket.requests) == sorted(published_variants()["vit-bg"].files)


def test_a_file_that_changed_meanwhile_is_brought_anew(bucket: Bucket, tmp_path: Path) -> None:
    bucket.files["a"] = b"old" * 1000
    (tmp_path / "a.download").write_bytes(b"old" * 500)
    (tmp_path / "a.download.json").write_text(f'{{"url": "{bucket.url}/a", "etag": "\\"of the old file\\""}}')
    download_file(f"{bucket.url}/a", tmp_path / "a", progress=False)
    assert (tmp_path / "a").read_bytes() == bucket.files["a"]


@pytest.mark.parametrize("wrong", ["size", "sum"])
def test_a_file_that_is_not_the_expected_one_is_refused(bucket: Bucket, tmp_path: Path, wrong: str) -> None:
    bucket.files["a"] = b"content"
    expected = FileFacts(7 if wrong == "sum" else 9, "0" * 64)
    with pytest.raises(InputError, match="7 bytes, expected 9" if wrong == "size" else "SHA-256"):
        download_file(f"{bucket.url}/a", tmp_path / "a", expected, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_later_fetches_must_match_the_first(bucket: Bucket, weights: dict[str, bytes], tmp_path: Path) -> None:
    bucket.files = dict(weights)
    cache = tmp_path / "cache"
    fetched = fetch_weights("vit-bg", source=bucket.url, cache=cache, progress=False)
    (fetched.folder / "fetched.json").unlink()
    encoder = published_variants()["vit-bg"].encoder
    (cache / "files" / encoder).unlink()
    poisoned = bytearray(weights[encoder])
    poisoned[-100] ^= 1
    bucket.files[encoder] = bytes(poisoned)
    with pytest.raises(InputError, match="SHA-256"):
        fetch_weights("vit-bg", source=bucket.url, cache=cache, progress=False)
    assert fetched_folder("vit-bg", cache) is None


def test_bad_sources_leave_no_folder_that_loads(bucket: Bucket, weights: dict[str, bytes], tmp_path: Path) -> None:
    cache, variants = tmp_path / "cache", published_variants()
    rybg, bg, vit = variants["mae-rybg"], variants["mae-bg"], variants["vit-rybg"]
    narrow = io.BytesIO()
    torch.save({key: value[:, :-1] if key == "0.weight" else value
                for key, value in torch.load(io.BytesIO(weights[rybg.classifiers[2]])).items()}, narrow)  # fmt: skip
    flipped = bytearray(weights[rybg.encoder])
    flipped[len(flipped) // 2] ^= 1
    cases = {
        r"10 of 11 files; .*seed_4\.pth is missing": {k: v for k, v in weights.items() if k != rybg.classifiers[4]},
        "damaged|truncated|not a torch": {**weights, rybg.encoder: weights[rybg.encoder][:2000]},
        "is damaged: the checksum": {**weights, rybg.encoder: bytes(flipped)},
        "seed_[01].*same content as": {**weights, rybg.classifiers[1]: weights[rybg.classifiers[0]]},
        "seed_3.*same content as DNA-Protein_MAE": {**weights, rybg.classifiers[3]: weights[bg.classifiers[3]]},
        "channels": {**weights, rybg.encoder: weights[bg.encoder], bg.encoder: b""},
        "learned position embeddings, expected sincos": {
            **weights,
            rybg.encoder: weights[vit.encoder],
            vit.encoder: b"",
        },
        r"seed_2\.pth": {**weights, rybg.classifiers[2]: narrow.getvalue()},
    }
    for number, (said, files) in enumerate(cases.items()):
        bucket.files = files
        with pytest.raises(InputError, match=said):
            fetch_weights("mae-rybg", source=bucket.url, cache=cache / str(number), progress=False)
        assert fetched_folder("mae-rybg", cache / str(number)) is None
        assert not list((cache / str(number)).glob("models/*"))
    # What was bad is not kept: the right files are taken afterwards.
    bucket.files = weights
    assert fetch_weights("mae-rybg", source=bucket.url, cache=cache / "1", progress=False).new


def test_a_server_that_breaks_down_in_the_middle_costs_nothing(
    bucket: Bucket, weights: dict[str, bytes], tmp_path: Path
) -> None:
    bucket.files, bucket.answers_head = weights, False
    variant = published_variants()["vit-ybg"]
    for number in (0, 1, 5, 10):
        bucket.gone_after[variant.files[number]] = 1000
        with pytest.raises(InputError, match=r"1,000 bytes are kept in .*run the same command again"):
            fetch_weights(variant.name, source=bucket.url, cache=tmp_path, progress=False)
        assert fetched_folder(variant.name, tmp_path) is None
        assert all((tmp_path / "files" / done).read_bytes() == weights[done] for done in variant.files[:number])
        bucket.broken = False
    asked = len(bucket.requests)
    fetch_weights(variant.name, source=bucket.url, cache=tmp_path, progress=False)
    assert bucket.requests[asked:] == [(variant.files[-1], "bytes=1000-")]


@pytest.mark.parametrize("arrangement", ["bucket", "flat", "folders"])
def test_weights_copied_by_hand(weights: dict[str, bytes], tmp_path: Path, arrangement: str) -> None:
    variant = published_variants()["mae-bg"]
    own = {name: weights[name] for name in variant.files}
    if arrangement == "folders":  # as SubCellPortable keeps them
        own = {f"models/bg/mae_contrast_supcon_model/{Path(name).name}": content for name, content in own.items()}
    copied = write_files(own, tmp_path / "copied", flat=arrangement == "flat")
    assert fetch_weights("mae-bg", source=copied, cache=tmp_path / "cache", progress=False).new
    assert sorted(path.name for path in (tmp_path / "cache" / "files").iterdir()) == ["checksums.json"]
    assert len(list(copied.rglob("*.pth"))) == len(variant.files)
    if arrangement == "flat":
        with pytest.raises(InputError, match=r"copied has 0 of 11 files; .* and 10 more are missing"):
            fetch_weights("vit-bg", source=copied, cache=tmp_path / "cache", progress=False)
        (copied / "again").mkdir()
        (copied / "again" / Path(variant.encoder).name).write_bytes(b"another")
        with pytest.raises(InputError, match="the same name and another content"):
            fetch_weights("mae-bg", source=copied, cache=tmp_path / "other", progress=False)


def test_unknown_names_and_places_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"'mae_rybgg' is not a published model.* Did you mean mae-rybg\?.*vit-bg"):
        fetch_weights("mae_rybgg", cache=tmp_path)
    with pytest.raises(InputError, match=r"copies is not a folder"):
        fetch_weights("mae-rybg", source=tmp_path / "copies", cache=tmp_path)
    with pytest.raises(InputError, match=r"s3://bucket is not the address of a server"):
        fetch_weights("mae-rybg", source="s3://bucket", cache=tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"HF_HUB_OFFLINE is set.*--from FOLDER"):
        fetch_weights("mae-rybg", cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_offline_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setenv(fetching.MIRROR_VARIABLE, "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"could not be reached: .*Run the same command again when the network"):
        fetch_weights("mae-bg", cache=tmp_path / "cache", progress=False)
