"""Values that a node's schema rules out are refused in one line, before anything runs."""

from types import SimpleNamespace

import pytest
import torch

from ..support.pack import interpolate  # isort: skip  (makes ComfyUI's modules importable)


from rife.models.zoo import DEFAULT

#: Input -> values that its schema rules out, as they may come over a link.
ODD_VALUES = {
    "multiplier": [
        *(10**7, 0, -1, 2.5, float("nan"), float("inf"), 10**400, None, True, "2", [2]),
        torch.tensor(2),
    ],
    "source_fps": [-24.0, 1e9, float("inf"), float("nan"), None, True, "24/1", {}],
    "target_fps": [-1, 1e9, float("nan"), None, False, "60", b"60"],
    "cuts": ["x", "", None, 0, ["hold"], "hold\n"],
    "cut_sensitivity": [-0.1, 1.1, float("nan"), None, "0.5"],
    "duplicates": [None, "false", 1, 0.0],
    "loop": [None, "yes", []],
    "flow_scale": ["3", 1, 0.5, None, "\x1b[31m1"],
    "length": ["seconds", None, 2],
    "model": [1, {}],
    "images": [
        *(
            None,
            [],
            [torch.rand(4, 4, 3)],
            "images",
            torch.rand(2, 4, 4),
            torch.rand(4, 4, 3).numpy(),
        ),
        *(torch.rand(0, 4, 4, 3), torch.rand(2, 0, 4, 3), torch.rand(2, 4, 4, 5)),
        *(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(2, 4, 4, 3, dtype=torch.bool)),
        *(torch.rand(2, 4, 4, 3, dtype=torch.complex64), torch.rand(1, 2, 4, 4, 3)),
        *(torch.rand(2, 4, 4, 3).to(torch.float8_e5m2), torch.rand(2, 4, 4, 3).to_sparse()),
    ],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in ODD_VALUES.items() for value in values],
)
def test_a_value_that_the_schema_rules_out_is_refused_in_one_line(
    pack: SimpleNamespace, frames: torch.Tensor, name: str, value: object
) -> None:
    """ComfyUI doesn't check values that come over a link."""
    with pytest.raises(ValueError) as error:
        pack.nodes["RIFEFrameInterpolate"].execute(**{"images": frames, name: value})
    message = str(error.value)
    assert message.startswith(f"{name} is ") and ", but must be " in message
    assert message.isprintable() and len(message) < 200


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        *(("LoadRIFEModel", "precision", value) for value in (None, "float64", 16)),
        *(("RIFEVideoInterpolate", "crf", value) for value in (99, -1, None, "18")),
        *(("RIFEVideoInterpolate", "format", value) for value in (None, "exe")),
        *(("RIFEVideoInterpolate", "interlaced", value) for value in (None, "yes", True)),
        *(("RIFEVideoInterpolate", "codec", value) for value in (None, "h264 ")),
        *(("RIFEOpticalFlow", "timestep", value) for value in (0, 1, None, float("nan"))),
        *(("RIFEOpticalFlow", "largest_motion", value) for value in (-1, None, 1e9)),
    ],
)
def test_every_node_refuses_them(
    pack: SimpleNamespace, frames: torch.Tensor, node: str, name: str, value: object
) -> None:
    inputs = {"model_name": DEFAULT} if node == "LoadRIFEModel" else {"images": frames}
    inputs = {} if node == "RIFEVideoInterpolate" else inputs
    with pytest.raises(ValueError, match=f"^{name} is .*, but must be "):
        pack.nodes[node].execute(**inputs, **{name: value})


def test_values_that_only_look_odd_do(
    pack: SimpleNamespace, model: object, frames: torch.Tensor
) -> None:
    whole = interpolate(pack, model, frames, 2)
    for images in (
        frames.double(),
        frames.movedim(3, 1).contiguous().movedim(1, 3),  # not contiguous
        frames.flip(0).flip(0).requires_grad_(),
    ):
        assert torch.allclose(interpolate(pack, model, images, 2.0).float(), whole, atol=1e-5)
    for dtype in (torch.float16, torch.bfloat16):
        assert interpolate(pack, model, frames.to(dtype), 2).sub(whole).abs().max() < 0.02
    assert interpolate(pack, model, frames[:, :1, :1], 3).shape == (10, 1, 1, 3)
