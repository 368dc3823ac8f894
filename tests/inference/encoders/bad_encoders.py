"""Encoders with one fault each, and a sound one, for `--model tests.inference.encoders.bad_encoders:NAME`."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor

from subcell_hf.inference import Encoder


def _moments(images: Tensor) -> Tensor:
    return torch.cat([images.mean((2, 3)), images.std((2, 3))], dim=1)


def sound() -> Encoder:
    return Encoder("sound", _moments, channels=("blue", "green"), input_px=16)


def wrong_shape() -> Encoder:
    return Encoder("wrong_shape", lambda images: images.mean((0, 2, 3))[None], input_px=16)


def other_size() -> Encoder:
    return Encoder("other_size", _moments, embedding_size=3, channels=("blue", "green"), input_px=16)


def nan() -> Encoder:
    return Encoder("nan", lambda images: _moments(images) * torch.nan, input_px=16)


def changes_its_input() -> Encoder:
    return Encoder("changes", lambda images: _moments(images.mul_(2)), input_px=16)


def random_numbers() -> Encoder:
    return Encoder("random", lambda images: _moments(images) + torch.rand(len(images), 1), input_px=16)


def dies() -> Encoder:
    def encode(images: Tensor) -> Tensor:
        raise KeyError("weights")

    return Encoder("dies", encode, input_px=16)


def no_encoder() -> str:
    return "no encoder"


def cannot_be_built() -> Encoder:
    raise ValueError("a file is missing")


def depends_on_others() -> Encoder:
    return Encoder("depends", lambda images: _moments(images - images.mean(0, keepdim=True)), input_px=16)


def exits() -> Encoder:
    def encode(images: Tensor) -> Tensor:
        sys.exit("no licence key")

    return Encoder("exits", encode, input_px=16)


def one_cell_at_a_time_fails() -> Encoder:
    return Encoder("squeezes", lambda images: _moments(images).squeeze(), channels=("blue", "green"), input_px=16)


def half() -> Encoder:
    return Encoder("half", lambda images: _moments(images).half(), channels=("blue", "green"), input_px=16)


def double() -> Encoder:
    return Encoder("double", lambda images: _moments(images).double().numpy(), channels=("blue", "green"), input_px=16)


def dies_of_a_signal(flag: str, when: str) -> Encoder:
    """One whose process ends with SIGSEGV while a file is there, when it is built or when it encodes."""

    def die() -> None:
        if Path(flag).exists():
            os.kill(os.getpid(), signal.SIGSEGV)

    def encode(images: Tensor) -> Tensor:
        die()
        return _moments(images)

    if when == "build":
        die()
    return Encoder("signal", encode, channels=("blue", "green"), input_px=16)
