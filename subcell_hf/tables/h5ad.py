"""Embedding tables as AnnData files: `X`, `obs`, `obsm["probabilities"]`, `uns["subcell_hf"]`.

Where cells were cropped from fields of view, `obsm["spatial"]` holds the centres of their boxes, x and y in micrometres
from the upper left corner of the field, as squidpy and scanpy take it, and `obsm["spatial_px"]` the same in pixels.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from subcell_hf.errors import InputError
from subcell_hf.ontology import reported_locations
from subcell_hf.storage.foreign_tables import foreign_table_of
from subcell_hf.storage.hdf5 import check_texts, write_hdf5
from subcell_hf.storage.parquet_files import open_parquet
from subcell_hf.tables.embedding_table import (
    CELL_ID,
    FIELD_OF_VIEW,
    METADATA_KEY,
    EmbeddingTable,
    check_table,
    facts_from_json,
    facts_to_json,
    table_facts,
)
from subcell_hf.tables.foreign_cells import cells_of
from subcell_hf.tables.parquet import EMBEDDING, PASS_PREFIX, PROBABILITIES, batches_of, parquet_facts

_RENAMED = "renamed"
"""Among the facts of an AnnData file: name of a column or pass → what it is called there."""

_PLACE = ("top", "left", "height", "width", "pixel_size_um")

Block = Mapping[str, npt.NDArray[np.float32]]


def write_h5ad(table: EmbeddingTable, path: Path | str) -> None:
    """Write a table that scanpy opens, whole or not at all.

    Args:
        table: The table.
        path: File to write; it appears when it is complete.

    Raises:
        InputError: If the table's parts do not fit together.
    """
    check_table(table, f"The table for {path}")
    arrays = {EMBEDDING: table.embeddings}
    if table.probabilities is not None:
        arrays[PROBABILITIES] = table.probabilities
    arrays |= {PASS_PREFIX + name: values for name, values in table.pass_probabilities.items()}
    columns = ((str(name), table.cells[name]) for name in table.cells.columns)
    widths = {name: values.shape[1] for name, values in arrays.items()}
    names = list(map(str, table.cells.columns))
    _write(path, len(table), names, columns, widths, [arrays], table_facts(table), _positions(table.cells))


def h5ad_from_parquet(parquet: Path, path: Path | str) -> None:
    """Write the AnnData file of a Parquet table, holding one column or one row group at a time.

    Args:
        parquet: File of an embedding table.
        path: File to write; it appears when it is complete.

    Raises:
        InputError: If the Parquet file is not an embedding table.
    """
    facts = parquet_facts(parquet)
    if facts is None:
        raise InputError(
            f"{parquet} is not an embedding table of subcell_hf. Read it with read_table and write it again."
        )
    with open_parquet(parquet) as file:
        widths = {i.name: i.type.list_size for i in file.schema_arrow if pa.types.is_fixed_size_list(i.type)}
        scalars = [name for name in file.schema_arrow.names if name not in widths]
        columns = ((name, file.read(columns=[name]).column(0).to_pandas()) for name in scalars)
        blocks = (
            {n: batch.column(n).flatten().to_numpy().reshape(len(batch), width) for n, width in widths.items()}
            for batch in batches_of(file, list(widths))
        )
        places = file.read(columns=[name for name in _PLACE if name in scalars]).to_pandas()
        _write(path, file.metadata.num_rows, scalars, columns, widths, blocks, facts, _positions(places))


def stored_names(names: Iterable[str]) -> dict[str, str]:
    """What columns are called in an AnnData file, where HDF5 or AnnData cannot hold their names.

    Args:
        names: Of columns, or of passes.

    Returns:
        Name → another, for those that need one: without `/`, and not `.` or `_index`.
    """
    names = list(names)
    needing = [name for name in names if re.search(r"[/\0]", name) or name in ("", ".", "_index")]
    taken, stored = set(names) - set(needing), dict[str, str]()
    for name in needing:
        other = re.sub(r"[/\0]", "_", name).strip("._") or "unnamed"
        while other in taken:
            other += "_"
        taken.add(other)
        stored[name] = other
    return stored


def _write(
    path: Path | str,
    rows: int,
    names: Sequence[str],
    columns: Iterable[tuple[str, pd.Series]],
    widths: Mapping[str, int],
    blocks: Iterable[Block],
    facts: Mapping[str, Any],
    positions: Mapping[str, npt.NDArray[np.float64]],
) -> None:
    import anndata

    with write_hdf5(path) as file:
        h5 = file.root
        h5.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        renamed = stored_names((*names, *facts["passes"]))
        facts = {**facts, _RENAMED: renamed} if renamed else facts
        write_frame(h5.create_group("obs"), ((renamed.get(name, name), column) for name, column in columns))
        variables = pd.DataFrame(index=pd.Index([f"embedding_{n}" for n in range(widths[EMBEDDING])], dtype=object))
        anndata.io.write_elem(h5, "var", variables)
        anndata.io.write_elem(h5, "obsm", dict(positions))
        anndata.io.write_elem(
            h5, "uns", {METADATA_KEY: facts_to_json(facts), "classes": np.array(facts["classes"], "U")}
        )
        keys = {PASS_PREFIX + name: PASS_PREFIX + other for name, other in renamed.items()}
        places = {name: "X" if name == EMBEDDING else f"obsm/{keys.get(name, name)}" for name in widths}
        arrays = {name: _new_array(h5, places[name], rows, width) for name, width in widths.items()}
        start = 0
        for block in blocks:
            stop = start + len(block[EMBEDDING])
            for name, values in block.items():
                arrays[name][start:stop] = values
            file.check()
            start = stop


def _positions(cells: pd.DataFrame) -> dict[str, npt.NDArray[np.float64]]:
    """Centres of the cells' boxes, `[cells, 2]` x and y, in micrometres and pixels; none if a place is not known."""
    if not {*_PLACE} <= {*cells.columns} or not all(_is_number(cells[name].dtype) for name in _PLACE):
        return {}
    places = cells[[*_PLACE]].to_numpy(np.float64)
    if not np.isfinite(places).all():
        return {}
    top, left, height, width, pixel_size_um = places.T
    centres = np.stack([left + width / 2, top + height / 2], axis=1)
    return {"spatial": centres * pixel_size_um[:, None], "spatial_px": centres}


def _new_array(h5: Any, place: str, rows: int, width: int) -> Any:
    array = h5.create_dataset(place, (rows, width), np.float32, track_times=False)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return array


def write_frame(group: Any, columns: Iterable[tuple[str, pd.Series]], index: str = CELL_ID) -> None:
    """Write columns one after the other, in AnnData's documented format of a data frame.

    Args:
        group: An empty group of an HDF5 file.
        columns: Name and values of each; numbers as they are, others as categories of texts.
        index: Name of the column that is the index, one of them.
    """
    import anndata
    import h5py

    names = []
    for name, column in columns:
        if name == index:
            anndata.io.write_elem(group, "_index", column.to_numpy(dtype=object))
            continue
        numeric = _is_number(column.dtype)
        anndata.io.write_elem(group, name, column.to_numpy() if numeric else _categories(column))
        names.append(name)
    group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
    group.attrs["column-order"] = np.array(names, dtype=h5py.string_dtype())


def _categories(column: pd.Series) -> pd.Categorical:
    """A column of texts; of Python's, since AnnData does not write those of Arrow."""
    codes, names = pd.factorize(column.astype(object).fillna("").astype(str).to_numpy(object), sort=True)
    return pd.Categorical.from_codes(codes, pd.Index(names, dtype=object))


def split_obsm(path: Path) -> tuple[Path, str | None]:
    """The AnnData file of a path such as `cells.h5ad/obsm/X_pca`, and the name in its `obsm`; None where none is named.

    Args:
        path: Of a table, or of an embedding in the `obsm` of one.
    """
    inside = path.parent.name == "obsm" and path.parent.parent.suffix.lower() == ".h5ad"
    return (path.parent.parent, path.name) if inside else (path, None)


def read_h5ad(path: Path, obsm: str | None = None) -> EmbeddingTable:
    """Read an AnnData file: ours, SubCellPortable's, or any with a dense or sparse `X`.

    Args:
        path: The file.
        obsm: Name of the embedding in `obsm`; None: it is `X`.

    Raises:
        InputError: If it cannot be read or its parts do not fit together.
    """
    import anndata
    import h5py

    try:
        check_texts(path)
        with h5py.File(path, "r", locking=False) as h5:
            if leading := _leads_elsewhere(h5):
                raise InputError(f"{path} takes {leading} from another file: write a table that holds it.")
            if h5.attrs.get("created_by") == "SubCellPortable" and obsm is None:
                return check_table(_portable(h5), str(path))
        data = anndata.read_h5ad(path)
        embeddings = _embeddings(data, path, obsm)
        cells = _cells_of_obs(data, path)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file leads to in h5py, and errors of anndata's own
        if "unable to lock file" in str(error):
            raise InputError(
                f"{path} cannot be locked, since its file system has no locks. Set the environment variable "
                "HDF5_USE_FILE_LOCKING=FALSE, or give the .parquet file."
            ) from error
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path} cannot be read as AnnData: {reason}. Copy it again, or write it again.") from error
    facts: dict[str, Any] = {"classes": list(map(str, data.uns.get("classes", ()))), "passes": [], "provenance": {}}
    if METADATA_KEY in data.uns:
        facts = facts_from_json(str(data.uns[METADATA_KEY]), str(path))
    if obsm is not None:
        facts["provenance"] = {**facts["provenance"], "read_from": f"{path}/obsm/{obsm}"}
    probabilities = data.obsm.get(PROBABILITIES)
    if probabilities is not None and not facts["classes"]:
        facts["classes"] = [f"class_{number}" for number in range(probabilities.shape[1])]
    renamed = facts.get(_RENAMED, {})
    cells = cells.rename(columns={other: name for name, other in renamed.items()})
    keys = {name: PASS_PREFIX + renamed.get(name, name) for name in facts["passes"]}
    missing = [key for key in keys.values() if key not in data.obsm]
    if missing:
        raise InputError(f"{path} lacks obsm[{missing[0]!r}], which its uns names. Write it again.")
    return check_table(
        EmbeddingTable(
            cells,
            embeddings,
            None if probabilities is None else np.asarray(probabilities, np.float32),
            tuple(facts["classes"]) if probabilities is not None else (),
            {name: np.asarray(data.obsm[key], np.float32) for name, key in keys.items()},
            facts["provenance"],
        ),
        str(path),
    )


def _leads_elsewhere(group: Any, most_levels: int = 8) -> str | None:
    """The first entry of an HDF5 file whose numbers lie in another file."""
    import h5py

    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            return f"{group.name.rstrip('/')}/{name}"
        entry = group.get(name)
        if isinstance(entry, h5py.Dataset) and (entry.external or entry.is_virtual):
            return str(entry.name)
        if isinstance(entry, h5py.Group) and most_levels and (found := _leads_elsewhere(entry, most_levels - 1)):
            return found
    return None


def _embeddings(data: Any, path: Path, obsm: str | None) -> npt.NDArray[np.float32]:
    """`X` or an entry of `obsm`, dense or sparse."""
    named = [f"{path}/obsm/{name}" for name in data.obsm]
    if obsm is not None and obsm not in data.obsm:
        raise InputError(f"{path} has no obsm[{obsm!r}]. Give one that is there: {', '.join(named) or 'it has none'}.")
    if obsm is None and (data.X is None or 0 in data.shape):
        others = [f"obsm[{name!r}]" for name in data.obsm] + [f"layers[{name!r}]" for name in data.layers]
        remedy = f"give the embedding in obsm, such as {named[0]}, or " if named else ""
        raise InputError(
            f"{path} has no embedding: its X is {'missing' if data.X is None else f'empty, {data.shape}'}. It has "
            f"{', '.join(others) or 'nothing else'}; {remedy}store the embedding as X, one row per cell."
        )
    found = data.X if obsm is None else data.obsm[obsm]
    values = found.toarray() if hasattr(found, "toarray") else np.asarray(found)
    if values.dtype.kind not in "biuf" or values.ndim != 2:
        name = "X" if obsm is None else f"obsm[{obsm!r}]"
        raise InputError(f"{path} has {name} of {values.dtype} {values.shape}, expected numbers, one row per cell.")
    return np.ascontiguousarray(values, np.float32)


def _cells_of_obs(data: Any, path: Path) -> pd.DataFrame:
    """The columns about cells; those that we wrote keep their kind, others become texts."""
    obs = data.obs.rename(columns=str)
    twice = obs.columns[obs.columns.duplicated()]
    if len(twice):
        raise InputError(f"{path} has the column {twice[0]!r} of obs more than once, expected every name once.")
    known = foreign_table_of(dict(obs.items()), f"{path}, obs")
    cells = cells_of(known, list(known.columns), list(obs.index.astype(str)))
    if METADATA_KEY not in data.uns:
        return cells
    return cells.assign(**{name: obs[name].to_numpy() for name in obs.columns if _is_number(obs[name].dtype)})


def _is_number(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in "biuf"


def _portable(h5: Any) -> EmbeddingTable:
    """SubCellPortable's own layout, which AnnData does not open."""
    names = np.array([name.decode() for name in h5["obs/index"][:]], dtype=object)
    cells = pd.DataFrame({CELL_ID: names, FIELD_OF_VIEW: np.full(len(names), "", dtype=object)})
    probabilities = h5["obsm/probabilities"][:].astype(np.float32) if "obsm/probabilities" in h5 else None
    count = 0 if probabilities is None else probabilities.shape[1]
    return EmbeddingTable(cells, h5["X"][:].astype(np.float32), probabilities, portable_classes(count))


def portable_classes(count: int) -> tuple[str, ...]:
    """Names of SubCellPortable's classes: the 31 reported locations, or numbers where there are not 31."""
    names = reported_locations()
    return names if count == len(names) else tuple(f"class_{number}" for number in range(count))
