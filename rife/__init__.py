"""RIFE frame interpolation: a library and a command line (`python -m rife`).

from rife import load_model, interpolate
model = load_model("rife_v4.25.safetensors")
frames = interpolate(model, frames, 2)   # (N, H, W, C) in [0, 1]
"""

import sys

from . import interrupts

if sys.argv[:1] == ["-m"] and "rife" in sys.orig_argv:  # `python -m rife`: what follows takes long
    interrupts.exit_on_signals()

from .callbacks import Cancel, Cancelled, Progress
from .devices import usable_dtype
from .fileio import FileError
from .inference.planner import NotEnoughMemory
from .interpolate import Summary, interpolate, interpolate_stream
from .interpolate_file import interpolate_file
from .media import Encoding
from .media.base import Frame
from .media.reader import INTERLACED
from .models.checkpoint import (
    EXTENSIONS,
    CheckpointError,
    load_model,
    network_from_state_dict,
    save_model,
)
from .networks.base import Network
from .networks.finite import NonFiniteError
from .optical_flow import flow_to_image, motion_to_image, optical_flow
from .options import CUTS, Options
from .output_frames import OutputFrame
from .timeline import LENGTHS, Schedule, Timeline, parse_frame_rate, parse_multiplier

__all__ = [
    "CUTS",
    "EXTENSIONS",
    "INTERLACED",
    "LENGTHS",
    "Cancel",
    "Cancelled",
    "CheckpointError",
    "Encoding",
    "FileError",
    "Frame",
    "Network",
    "NonFiniteError",
    "NotEnoughMemory",
    "Options",
    "OutputFrame",
    "Progress",
    "Schedule",
    "Summary",
    "Timeline",
    "flow_to_image",
    "interpolate",
    "interpolate_file",
    "interpolate_stream",
    "load_model",
    "motion_to_image",
    "network_from_state_dict",
    "optical_flow",
    "parse_frame_rate",
    "parse_multiplier",
    "save_model",
    "usable_dtype",
]
__version__ = "0.1.0"
