"""The image processor under `ImageProcessingTestMixin`, for images of two, three and four channels."""

import unittest
from typing import Any

from subcell_hf.model.image_processing_subcell import SubCellImageProcessor

from .common_tests import common_tests

common = common_tests("test_image_processing_common")


class ProcessorTester(common.ImageProcessingTester):  # type: ignore[name-defined,misc]
    """What the mixin asks of a processor's tester."""

    def __init__(self, parent: Any, num_channels: int):
        names = ["red", "blue", "green", "yellow"][:num_channels]
        super().__init__(parent, num_channels=num_channels, channels=names, size={"height": 48, "width": 40})

    def _get_image_processing_classes(self) -> dict[None, type]:
        return {None: SubCellImageProcessor}


class ProcessorCase(common.ImageProcessingTestMixin):  # type: ignore[name-defined,misc]
    """What all cases have in common."""

    num_channels: int

    def setUp(self) -> None:
        self.image_processor_tester = ProcessorTester(self, self.num_channels)


class TestTwoChannels(ProcessorCase, unittest.TestCase):
    num_channels = 2


class TestThreeChannels(ProcessorCase, unittest.TestCase):
    num_channels = 3


class TestFourChannels(ProcessorCase, unittest.TestCase):
    num_channels = 4
