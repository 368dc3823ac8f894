from .embed import embed as embed
from .ensemble import EnsemblePredictor as EnsemblePredictor
from .table_baselines import BASELINES as BASELINES
from .table_baselines import FoundBaselines as FoundBaselines
from .table_baselines import find_baselines as find_baselines
from .table_baselines import find_profile_baselines as find_profile_baselines
