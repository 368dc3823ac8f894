"""A file of labels loses nothing that was acknowledged, and files of several annotators are read together."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from subcell_hf.errors import InputError
from subcell_hf.evaluation.annotation.label_records import LabelFile, LabelRecord, merge_labels, read_labels


def label(number: int, cell: str, name: str, by: str = "ann", **more: str) -> LabelRecord:
    return LabelRecord(f"{by}{number}", f"2026-01-01T00:00:{number:02d}.000Z", by, "label", cell, name, **more)


def undo(number: int, other: str, by: str = "ann") -> LabelRecord:
    return LabelRecord(f"{by}{number}", f"2026-01-01T00:00:{number:02d}.000Z", by, "undo", undoes=other)


def test_the_latest_label_counts_and_undoing_brings_back_the_one_before() -> None:
    records = [label(1, "a", "dots"), label(2, "a", "rings"), label(3, "b", "dots")]
    assert merge_labels(records).labels == {"a": "rings", "b": "dots"}
    assert merge_labels([*records, undo(4, "ann2")]).labels == {"a": "dots", "b": "dots"}
    assert merge_labels([*records, undo(4, "ann2"), undo(5, "ann1")]).labels == {"b": "dots"}


def test_annotators_merge_and_their_disagreements_are_kept_apart() -> None:
    ann = [label(1, "a", "dots"), label(2, "b", "rings"), label(3, "c", "rings")]
    bob = [label(4, "a", "dots", by="bob"), label(5, "b", "dots", by="bob")]
    merged = merge_labels([*bob, *ann, *ann])
    assert merged.labels == {"a": "dots", "c": "rings"}
    assert merged.disagreements == {"b": {"ann": "rings", "bob": "dots"}}
    assert merged.compared == 2
    assert merged.classes == ("dots", "rings")
    agreed = merge_labels([*ann, *bob, label(6, "b", "dots")])
    assert (agreed.labels["b"], agreed.disagreements) == ("dots", {})


def test_a_class_is_renamed_united_removed_and_brought_back() -> None:
    records = [label(1, "a", "dots"), label(2, "b", "rings", by="bob"), label(3, "c", "threads")]
    rename = LabelRecord("r", "2026-01-01T00:00:10.000Z", "ann", "rename", class_name="dots", renamed_to="spots")
    merged = merge_labels([*records, rename], ["dots"])
    assert merged.labels == {"a": "spots", "b": "rings", "c": "threads"}
    assert merged.classes == ("spots", "rings", "threads")
    later = merge_labels([*records, rename, label(11, "d", "dots")])  # given by a page that did not know it yet
    assert later.classes == ("spots", "rings", "threads", "dots")
    unite = LabelRecord("u", "2026-01-01T00:00:12.000Z", "ann", "rename", class_name="rings", renamed_to="spots")
    assert merge_labels([*records, rename, unite]).classes == ("spots", "threads")
    remove = LabelRecord("x", "2026-01-01T00:00:13.000Z", "ann", "remove", class_name="spots")
    left = merge_labels([*records, rename, unite, remove])
    assert (left.labels, left.classes, set(left.records)) == ({"c": "threads"}, ("threads",), {"c"})
    assert merge_labels([*records, rename, remove, undo(14, "x"), undo(15, "r")]) == merge_labels(records)
    with pytest.raises(InputError, match="no renamed_to"):
        LabelRecord("r", "t", "ann", "rename", class_name="dots")


def test_the_first_label_says_why_a_cell_was_shown() -> None:
    first = label(1, "a", "dots", chosen_by="random")
    records = [first, undo(2, first.id), label(3, "a", "rings", chosen_by="map"), label(4, "a", "rings", by="bob")]
    assert merge_labels(records).first_shown == {"a": {"ann": "random", "bob": ""}}


def test_records_are_read_back_and_a_repeated_one_is_stored_once(tmp_path: Path) -> None:
    file = LabelFile(tmp_path / "new" / "labels.jsonl")
    first = [label(1, "a", 'rings"</script>'), label(2, "b", "Zellkern ä")]
    assert file.append(first) == first
    assert file.append([first[0], label(3, "c", "dots")]) == [label(3, "c", "dots")]
    assert read_labels(file.path) == [*first, label(3, "c", "dots")] == file.records
    assert len(file.path.read_bytes().splitlines()) == 3


def test_a_line_that_was_cut_off_is_dropped_and_writing_continues(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    LabelFile(path).append([label(1, "a", "dots")])
    whole = path.read_bytes()
    path.write_bytes(whole + label(2, "b", "dots").to_line()[:-9])
    assert read_labels(path) == [label(1, "a", "dots")]
    LabelFile(path).append([label(3, "c", "dots")])
    assert path.read_bytes() == whole + label(3, "c", "dots").to_line()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{\n", "line 2 is no label record"),
        (b"[1]\n", "expected a JSON object"),
        (b'{"id": "1", "at": "t", "by": "ann", "action": "label", "cell_id": "a"}\n', "no class_name"),
        (b'{"id": "1", "at": "t", "by": "ann", "action": "drop"}\n', "expected one of label"),
        (b'{"id": "1", "at": "t", "by": "ann", "action": "class", "class_name": 3}\n', "expected a text"),
        (b'{"id": "1", "at": "t", "by": "ann", "action": "class", "class_name": "a\\nb"}\n', "printable"),
        (b'{"id": "1", "at": "t", "by": "ann", "action": "class", "class_name": "a", "version": 2}\n', "version 2"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_bytes(label(1, "a", "dots").to_line() + line)
    with pytest.raises(InputError, match=message) as caught:
        LabelFile(path)
    assert f"{path}, line 2" in str(caught.value)


def test_two_writers_of_one_file_lose_nothing(tmp_path: Path) -> None:
    files = [LabelFile(tmp_path / "labels.jsonl") for _ in range(2)]

    def write(number: int) -> None:
        for turn in range(20):
            files[number].append([label(turn, f"{number} {turn}", "dots", by=f"annotator {number}-")])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_labels(tmp_path / "labels.jsonl")) == 40
    files[0].refresh()
    assert {record.by for record in files[0].records} == {"annotator 0-", "annotator 1-"}


WRITER = """
import sys
from pathlib import Path
from subcell_hf.evaluation.annotation.label_records import LabelFile, LabelRecord
file = LabelFile(Path(sys.argv[1]))
for number in range(100_000):
    file.append([LabelRecord(str(number), "2026-01-01T00:00:00.000Z", "ann", "label", f"cell {number}", "dots")])
    print(number, flush=True)
"""


def test_kill_9_loses_no_acknowledged_label(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 50:
            break
    process.send_signal(signal.SIGKILL)
    acknowledged = [*process.stdout]
    process.wait()
    last = int(acknowledged[-1]) if acknowledged else 50
    kept = [record.cell_id for record in read_labels(path)]
    assert kept[: last + 1] == [f"cell {number}" for number in range(last + 1)]
    assert all(json.loads(line) for line in path.read_bytes().split(b"\n")[: last + 1])
