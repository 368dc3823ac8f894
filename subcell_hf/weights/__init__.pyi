from .conversion import convert as convert
from .fetching import FetchedModel as FetchedModel
from .fetching import fetch_weights as fetch_weights
from .model_names import find_folder as find_folder
from .published_files import ConversionError as ConversionError
from .published_variants import PublishedVariant as PublishedVariant
from .published_variants import published_variants as published_variants
from .untrained import save_untrained as save_untrained
