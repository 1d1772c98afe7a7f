"""The refine module under its upstream name; its code is in networks/refine.py."""

from .networks.refine import Contextnet, Unet

__all__ = ["Contextnet", "Unet"]
