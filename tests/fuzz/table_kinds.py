"""Tables: metadata, boxes, embeddings, profiles, results."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from subcell_hf.evaluation.perturbation.table import read_profiles
from subcell_hf.images.fields_of_view import ReadingOptions, list_fields
from subcell_hf.images.image_tables.plate_maps import describe_join, join_plate_maps, read_plate_map
from subcell_hf.images.tables import read_boxes, read_field_metadata
from subcell_hf.tables.cell_pictures import iterate_pictures, write_pictures
from subcell_hf.tables.embedding_table import table_facts
from subcell_hf.tables.files import read_table, write_h5ad, write_parquet
from tests.fuzz.runner import Kind
from tests.inference.example_output import example_cells, example_pictures


def _frame(prefix: str = "") -> pd.DataFrame:
    table = example_cells(12)
    values = {f"{prefix}feat{n:04d}": table.embeddings[:, n] for n in range(6)}
    return table.cells[["cell_id", "gene", "locations", "plate"]].assign(**values)


def _profiles() -> pd.DataFrame:
    frame = _frame()
    return frame.rename(columns={name: f"Metadata_{name}" for name in ("cell_id", "gene", "locations", "plate")})


def read_tables(folder: Path) -> None:
    """As `evaluate`, `report` and `map` read embedding tables."""
    for path in sorted(folder.iterdir()):
        table = read_table(path)
        table_facts(table)


def read_all_profiles(folder: Path) -> None:
    """As `subcell evaluate perturbation` reads profiles."""
    for path in sorted(folder.iterdir()):
        read_profiles([path])


def write_metadata(folder: Path) -> None:
    """Metadata of fields and boxes of cells."""
    (folder / "metadata.csv").write_text("field_of_view,antibody,pixel_size_um\na_1,HPA1,0.08\na_2,HPA2,\n")
    (folder / "boxes.csv").write_text(
        "field_of_view,cell_id,top,left,height,width\na_1,1,0,0,8,9\na_1,2,10,0,8,9\na_2,1,4,4,8,8\n"
    )


def read_metadata(folder: Path) -> None:
    """As every command reads what lies beside images."""
    read_field_metadata(folder / "metadata.csv")
    read_boxes(folder / "boxes.csv")


def write_plate_maps(folder: Path) -> None:
    """Plate maps of every form."""
    (folder / "barcode_platemap.csv").write_text("Assay_Plate_Barcode,Plate_Map_Name\nP1,M1\nP2,M1\n")
    (folder / "M1.txt").write_text("plate_map_name\twell_position\tdrug\nM1\tA01\tDMSO\nM1\tB02\t\n")
    (folder / "long.csv").write_text("plate;row;col;dose\nP1;A;1;0,5\nP1;B;2;\n")
    (folder / "grid.csv").write_text(",1,2\nA,x,y\nB,z,\n")


def read_plate_maps(folder: Path) -> None:
    """As every command reads `--plate-map`."""
    for name in ("barcode_platemap.csv", "long.csv", "grid.csv"):
        found = read_plate_map(folder / name)
        describe_join([found], [("P1", "A01")])
        join_plate_maps([found], "P1", "A01")


def write_image_tables(folder: Path) -> None:
    """A LoadData table, a sample sheet, and a crate with its table."""
    names = "FileName_OrigDNA,PathName_OrigDNA,Frame_OrigDNA,FileName_IllumDNA"
    (folder / "load_data.csv").write_text(
        f"{names},Metadata_Plate,Metadata_Well,Metadata_Site,Metadata_ImageResolutionX,Metadata_Row,Metadata_Col\n"
        "a.tif,C:\\data,0,i.npy,P1,A01,1,6e-07,1,1\nb.tif,s3://b/c/,1,i.npy,P1,A02,1,6e-07,A,2\n"
    )
    (folder / "sheet.csv").write_text("channel,path,plate,well,site\nDNA,s3://b/a.tif,P1,A01,1\nER,b.tif,P1,A01,1\n")
    (folder / "green").mkdir()
    (folder / "green" / "B2AI_1_untreated_C1_R1_z01_green.png").touch()
    (folder / "antibody_gene_table.tsv").write_text(
        "Antibody ID\tTreatment\tWell\tRegion\nHPA061717\tuntreated\tC1\tR1\n"
    )
    (folder / "ro-crate-metadata.json").write_text(
        '{"@graph": [{"@id": "x"}, {"contentUrl": "file:///green/B2AI_1_untreated_C1_R1_z01_green.png", "keywords": '
        '["HPA061717"], "additionalProperty": [{"name": "gene", "value": "A"}]}]}'
    )


def read_image_tables(folder: Path) -> None:
    """As every command lists the images of a table or a crate; nothing is decoded."""
    list_fields(folder / "load_data.csv", ReadingOptions(illumination=True, path_mapping={"s3://b": str(folder)}))
    list_fields(folder / "sheet.csv")
    list_fields(folder)


def write_npz(folder: Path) -> None:
    """Arrays of NumPy."""
    table = example_cells(12)
    ids = table.cells["cell_id"].to_numpy(str)
    np.savez(folder / "x.npz", embeddings=table.embeddings, probabilities=table.probabilities, ids=ids)


def write_pictures_file(folder: Path) -> None:
    """Pictures of cells, as a report shows them."""
    write_pictures(example_pictures(example_cells(6)), folder / "pictures.parquet")


def read_pictures_file(folder: Path) -> None:
    """As `subcell report` reads them."""
    for picture in iterate_pictures(folder / "pictures.parquet"):
        assert picture.cell_id is not None


TABLE_KINDS = [
    Kind(
        "csv",
        {
            "comma": lambda folder: _frame().to_csv(folder / "x.csv", index=False),
            "tab": lambda folder: _frame().to_csv(folder / "x.tsv", sep="\t", index=False),
            "gzip": lambda folder: _frame().to_csv(folder / "x.csv.gz", index=False),
        },
        read_tables,
        8,
    ),
    Kind(
        "parquet",
        {
            "ours": lambda folder: write_parquet(example_cells(12), folder / "x.parquet"),
            "other": lambda folder: pq.write_table(pa.Table.from_pandas(_frame()), folder / "x.parquet"),
        },
        read_tables,
        9,
    ),
    Kind("h5ad", {"ours": lambda folder: write_h5ad(example_cells(12), folder / "x.h5ad")}, read_tables, 6),
    Kind("npz", {"arrays": write_npz}, read_tables, 4),
    Kind(
        "profiles",
        {
            "csv": lambda folder: _profiles().to_csv(folder / "x.csv", index=False),
            "gzip": lambda folder: _profiles().to_csv(folder / "x.csv.gz", index=False),
            "parquet": lambda folder: _profiles().to_parquet(folder / "x.parquet", index=False),
        },
        read_all_profiles,
        8,
    ),
    Kind("metadata", {"csv": write_metadata}, read_metadata, 6),
    Kind("plate maps", {"text": write_plate_maps}, read_plate_maps, 6),
    Kind("image tables", {"text": write_image_tables}, read_image_tables, 6),
    Kind("pictures", {"parquet": write_pictures_file}, read_pictures_file, 2, refusals=(FileNotFoundError,)),
]
