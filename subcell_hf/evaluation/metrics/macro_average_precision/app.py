"""The metric's page as a Space: numbers in, the metric out."""

import evaluate
from evaluate.utils import launch_gradio_widget

launch_gradio_widget(evaluate.load("macro_average_precision.py"))
