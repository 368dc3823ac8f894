from .cells_on_layer import CellColours as CellColours
from .cells_on_layer import CellsOnLayer as CellsOnLayer
from .image_layers import guess_layers as guess_layers
from .image_layers import read_field as read_field
from .linked_layer import LinkedLayer as LinkedLayer
from .linked_layer import linked_layer as linked_layer
