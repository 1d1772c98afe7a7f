"""A network of every kind, with seeded weights."""

from rife.networks.ifnet import IFNet, IFNet_2R, IFNet_m
from rife.networks.ifnet_hdv3 import IFNet_HDv3
from rife.networks.ifnet_v4 import VERSIONS, IFNet_v4

from .seeded import seeded_state

NETWORKS = {
    "paper": (IFNet, 0.5),
    "IFNet_m": (IFNet_m, 0.5),
    "2R": (IFNet_2R, 0.5),
    "v3.5": (lambda: IFNet_HDv3(1), 0.02),
    "v3.6": (lambda: IFNet_HDv3(2), 0.5),
    **{name: (lambda row=row: IFNet_v4(row), 0.5) for name, row in VERSIONS.items()},
}


def seeded_network(name, gain=None):
    make, usual = NETWORKS[name]
    network = make().eval()
    network.load_state_dict(seeded_state(network, gain=gain or usual))
    return network


def option_sets(network):
    """Every combination of what the network can do."""
    return [
        {"ensemble": ensemble, "refine": refine}
        for ensemble in {False, "ensemble" in network.options}
        for refine in {False, "refine" in network.options}
    ]
