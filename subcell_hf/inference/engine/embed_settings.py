"""How cells are embedded: device, precision, batches, processes, and what is written."""

from dataclasses import dataclass
from typing import Annotated

from subcell_hf.errors import InputError
from subcell_hf.parallel.ray_tasks import check_engine
from subcell_hf.settings import Setting
from subcell_hf.tables.cell_pictures import DEFAULT_PICTURES

ORIENTATIONS = (1, 4, 8)
"""A cell as it is; its right-angle turns; these and their mirror images."""


@dataclass(frozen=True)
class EmbedSettings:
    """How a run is done; of these only precision, orientations, pictures and attention maps change what comes out.

    Attributes:
        device: auto, cpu, cuda, cuda:1, …; openvino:GPU for another device of OpenVINO than the CPU.
        precision: fp32, bf16, or auto: the one measured as faster here, or that of a run that is resumed. Also
            int8, if `subcell optimize` wrote the model.
        orientations: Average embeddings and probabilities over so many orientations of each cell: 4 right-angle turns,
            or 8 with their mirror images, which take 4 or 8 times as long.
        batch_size: Images per forward pass; default: automatic, halved if memory runs out.
        workers: Processes for reading and cropping; 0: a thread of the main process.
        pictures: Maximum number of cells to save with picture and attention map.
        attention_maps: Keep the attention of every cell, for SubCellPortable's pictures.
        h5ad: Also write embeddings.h5ad for AnnData.
        strict: Stop at the first input that cannot be used, instead of skipping it.
        progress: Show progress on stderr.
        engine: local, or ray: Ray Data on this machine or on a cluster.
        engine_backend: torch, openvino (in int8 what `subcell optimize` wrote), or auto: if the precision is auto too,
            the one measured as faster here, otherwise torch.
        actors: With --engine ray: processes that run the model.
    """

    device: str = "auto"
    precision: str = "auto"
    orientations: int = 1
    batch_size: Annotated[int | None, Setting(minimum=1)] = None
    workers: Annotated[int, Setting(minimum=0)] = 0
    pictures: Annotated[int, Setting(minimum=0)] = DEFAULT_PICTURES
    attention_maps: bool = False
    h5ad: bool = True
    strict: bool = False
    progress: bool = True
    engine: str = "local"
    engine_backend: str = "auto"
    actors: Annotated[int, Setting(minimum=1)] = 1

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be.

        Raises:
            InputError: Naming the setting.
        """
        for name, least in (("batch_size", 1), ("workers", 0), ("pictures", 0), ("actors", 1)):
            given = getattr(self, name)
            if given is not None and given < least:
                raise InputError(f"{name} is {given}, expected at least {least}.")
        if self.orientations not in ORIENTATIONS:
            raise InputError(f"orientations is {self.orientations!r}, expected 1, 4 or 8.")
        check_engine(self.engine)
