"""The paper's network under its upstream name; its code is in networks/ifnet.py."""

from .networks.ifnet import IFBlock, IFNet, IFNet_2R, IFNet_m

__all__ = ["IFBlock", "IFNet", "IFNet_2R", "IFNet_m"]
