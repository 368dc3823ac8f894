"""The plugin of napari: embed the cells of open layers, colour them, see them on a map, and annotate them.

`napari.yaml` names what the menu "Plugins" offers. Its widgets read layers, call workflows, and show their results.
"""

from subcell_hf.extras import attach_exports

__getattr__, __dir__, __all__ = attach_exports(__name__, __file__)
