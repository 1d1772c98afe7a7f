"""The refine module under the name that it has upstream; its code is in networks/refine.py."""

from .networks.refine import Contextnet, Unet

__all__ = ["Contextnet", "Unet"]
