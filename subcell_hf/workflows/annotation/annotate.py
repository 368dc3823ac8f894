"""Annotation: sort the cells of a table into custom classes on a page of this machine, and export what follows."""

import getpass
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from subcell_hf.errors import InputError, counted
from subcell_hf.evaluation.annotation.annotation_results import write_results
from subcell_hf.evaluation.annotation.annotation_session import AnnotationSession, AnnotationSettings
from subcell_hf.hub.annotation.annotation_page import make_page, read_picture_bytes
from subcell_hf.hub.annotation.annotation_server import AnnotationServer
from subcell_hf.tables.files import read_table

CLASSIFIER_FOLDER = "classifier"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnnotationInput:
    """What is annotated, by whom.

    Attributes:
        labels: File of labels (.jsonl); it is created with the first label, and only grows.
        annotator: Name that is recorded with each label; default: the name of the user.
        merge: File of labels of another annotator, which is read, never written; repeatable.
        encoder: Folder, Hub id or name of the encoder of the table, which the exported classifier contains; default: as
            TABLE records it.
        output: Folder of the export; default: LABELS without its ending, and -export.
    """

    labels: Path
    annotator: str | None = None
    merge: tuple[Path, ...] = ()
    encoder: str | None = None
    output: Path | None = None

    @property
    def export_folder(self) -> Path:
        """Where an export is written."""
        return self.output or self.labels.with_name(f"{self.labels.stem}-export")


@dataclass(frozen=True)
class AnnotationPage:
    """Where the annotation page is served.

    Attributes:
        host: Address to listen on; the page has a token, and no TLS.
        port: Port; 0 for a free one.
        browser: Open the page in a browser.
    """

    host: str = "127.0.0.1"
    port: int = 8750
    browser: bool = True


@dataclass(frozen=True)
class AnnotationExport:
    """What an export wrote.

    Attributes:
        output: The folder.
        files: Tables in it.
        classifier: Folder of the classifier; None where none could be written.
        no_classifier: Why there is none; empty where there is one.
        disagreements: Cells on whose class annotators disagree, which are left out.
    """

    output: Path
    files: tuple[Path, ...]
    classifier: Path | None
    no_classifier: str
    disagreements: int

    def describe(self) -> list[str]:
        """Sentences for people."""
        names = ", ".join(path.name for path in self.files)
        said = [f"{self.output} contains {names}{' and the classifier' if self.classifier else ''}."]
        if self.disagreements:
            cells = counted(self.disagreements, "cell")
            said.append(f"Annotators disagree on {cells}, left out of training; see {self.files[0].name}.")
        return said + ([f"No classifier was written: {self.no_classifier}"] if self.no_classifier else [])


def serve_annotation(
    table: Path | str,
    given: AnnotationInput,
    page: AnnotationPage | None = None,
    settings: AnnotationSettings | None = None,
    *,
    announce: Callable[[str], object] = _logger.info,
) -> None:
    """Serve the annotation page of a table until it is stopped by Ctrl-C.

    Args:
        table: Output folder of `subcell embed`, with pictures.
        given: Labels and annotator.
        page: Where the page is served.
        settings: How labels are used.
        announce: Is given the address of the page, as a sentence.

    Raises:
        InputError: As `open_annotation`.
    """
    page = page or AnnotationPage()
    with open_annotation(table, given, page, settings) as server:
        announce(f"Annotate at {server.url} ; labels are stored in {given.labels}. Stop with Ctrl-C.")
        server.serve(browser=page.browser)


def open_annotation(
    table: Path | str,
    given: AnnotationInput,
    page: AnnotationPage | None = None,
    settings: AnnotationSettings | None = None,
) -> AnnotationServer:
    """Open the annotation page of a table; the server must then be run.

    Example:
        ```python
        from pathlib import Path

        from subcell_hf.workflows import AnnotationInput, open_annotation

        with open_annotation("run", AnnotationInput(Path("labels.jsonl"))) as server:
            print(server.url)
            server.serve_forever()
        ```

    Args:
        table: Output folder of `subcell embed`, with pictures.
        given: Labels and annotator.
        page: Where the page is served.
        settings: How labels are used.

    Returns:
        The server; its `url` contains the token of the page.

    Raises:
        InputError: If the table has no pictures, a file of labels is damaged, or the port is in use.
    """
    page, table = page or AnnotationPage(), Path(table)
    pictures = read_picture_bytes(table)
    session = open_annotation_session(table, given, settings, shown=pictures)
    content = make_page(session, pictures, table.resolve().name)
    for name in session.other_encoders():
        _logger.warning("Some labels in %s were given on embeddings of %s. They count as well.", given.labels, name)
    try:
        return AnnotationServer(
            session, content, lambda: _export(session, table, given).describe(), page.host, page.port
        )
    except OSError as error:
        raise InputError(
            f"{page.host}:{page.port} cannot be opened ({error.strerror}). Give another --port, or 0 for a free one."
        ) from error


def export_annotation(
    table: Path | str, given: AnnotationInput, settings: AnnotationSettings | None = None
) -> AnnotationExport:
    """Write labels, scores of all cells, fractions of wells and the classifier, without a page.

    Args:
        table: Embedding table, or output folder of `subcell embed`.
        given: Labels, and the folder to write.
        settings: How labels are used.

    Raises:
        InputError: If there are no labels, or a file is damaged.
    """
    table = Path(table)
    session = open_annotation_session(table, given, settings)
    if not session.records():
        raise InputError(f"{given.labels} contains no labels. Label cells with `subcell annotate` first.")
    return _export(session, table, given)


def open_annotation_session(
    table: Path | str,
    given: AnnotationInput,
    settings: AnnotationSettings | None = None,
    *,
    shown: Iterable[str] | None = None,
) -> AnnotationSession:
    """Open a table and its labels without a page, for a program that shows cells in a custom way.

    Args:
        table: Embedding table, or output folder of `subcell embed`.
        given: Labels and annotator.
        settings: How labels are used.
        shown: Ids of the cells that can be proposed; None: all.

    Returns:
        The session, which takes labels, trains the classifier and proposes cells.

    Raises:
        InputError: If the user has no name, or the table or a file of labels is damaged.
    """
    try:
        annotator = (given.annotator or getpass.getuser()).strip()
    except (KeyError, OSError) as error:  # a container's user may have no name
        raise InputError("This user has no name. Give the annotator's (--annotator).") from error
    return AnnotationSession(
        read_table(table), given.labels, settings, annotator=annotator, others=given.merge, shown=shown
    )


def _export(session: AnnotationSession, table: Path, given: AnnotationInput) -> AnnotationExport:
    from subcell_hf.workflows.annotation.annotation_model import save_annotation_classifier  # torch, when it is needed

    output = given.export_folder
    files = write_results(session, output)
    classifier, why = None, ""
    try:
        classifier = save_annotation_classifier(session, table, output / CLASSIFIER_FOLDER, given.encoder)
    except InputError as error:
        why = str(error)
    return AnnotationExport(output, tuple(files), classifier, why, len(session.state.merged.disagreements))
