from .chammi import CHAMMI_SETS as CHAMMI_SETS
from .chammi import read_chammi as read_chammi
from .chammi import score_chammi as score_chammi
from .definitions import FieldBenchmark as FieldBenchmark
from .definitions import field_benchmark as field_benchmark
from .definitions import field_benchmarks as field_benchmarks
from .published_files import check_published_files as check_published_files
