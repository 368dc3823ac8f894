from .encoders_page import write_encoders_page as write_encoders_page
from .page import write_report as write_report
from .projection import CellMap as CellMap
from .projection import project_cells as project_cells
