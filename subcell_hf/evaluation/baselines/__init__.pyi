from .baselines import BaselineSettings as BaselineSettings
from .baselines import make_baselines as make_baselines
from .cell_features import Features as Features
from .cell_features import measure_cell as measure_cell
from .cell_features import measure_cells as measure_cells
