from .processes import ALONE as ALONE
from .processes import Processes as Processes
from .ray_tasks import ENGINES as ENGINES
from .ray_tasks import map_on_ray as map_on_ray
from .ray_tasks import start_ray as start_ray
from .worker_pool import WorkerPool as WorkerPool
from .worker_pool import map_ahead as map_ahead
