"""RIFE frame interpolation: a library and a command line (`python -m rife`).

from rife import load_model, interpolate
model = load_model("rife_v4.25.safetensors")
frames = interpolate(model, frames, multiplier=2)   # (N, H, W, C) in [0, 1]
"""

from .checkpoint import EXTENSIONS, CheckpointError, load_model, save_model
from .interpolate import Cancelled, Options, interpolate, interpolate_stream
from .network import Network

__all__ = [
    "EXTENSIONS",
    "Cancelled",
    "CheckpointError",
    "Network",
    "Options",
    "interpolate",
    "interpolate_stream",
    "load_model",
    "save_model",
]
__version__ = "0.1.0"
