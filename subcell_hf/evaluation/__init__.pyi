from . import annotation as annotation
from . import baselines as baselines
from . import comparison as comparison
from . import field_benchmarks as field_benchmarks
from . import localization as localization
from . import perturbation as perturbation
from . import proteome_map as proteome_map
from . import screening as screening
