from .baselines import BaselineSettings as BaselineSettings
from .baselines import make_baselines as make_baselines
