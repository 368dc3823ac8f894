from .comparison_files import write_comparison as write_comparison
from .embeddings import Comparison as Comparison
from .embeddings import Predictions as Predictions
from .embeddings import ScoredModel as ScoredModel
from .embeddings import compare_models as compare_models
from .embeddings import model_index as model_index
from .embeddings import read_predictions as read_predictions
