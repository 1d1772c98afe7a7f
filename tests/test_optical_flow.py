"""Flow as colours: the wheel of Baker et al. (2007), as other tools draw it."""

import math

import pytest
import torch

from rife.optical_flow import flow_to_image


def colour(x, y, **options):
    """The colour of one motion, in levels of 255."""
    image = flow_to_image(torch.tensor([float(x), float(y)]).reshape(1, 1, 2), **options)
    return (image * 255).flatten().tolist()


# What torchvision 0.26's flow_to_image gives, by degrees clockwise from rightwards.
WHEEL = {
    0: (255, 0, 0),
    45: (255, 114, 0),
    90: (255, 229, 0),
    135: (32, 255, 0),
    157.5: (0, 255, 167),
    180: (0, 209, 255),
    225: (0, 52, 255),
    270: (87, 0, 255),
    315: (220, 0, 255),
    337.5: (255, 0, 186),
}


@pytest.mark.parametrize(("degrees", "expected"), WHEEL.items())
def test_directions_have_the_colours_of_the_standard_wheel(degrees, expected):
    angle = math.radians(degrees)
    # Torchvision's colours are whole levels, rounded down.
    assert colour(3 * math.cos(angle), 3 * math.sin(angle)) == pytest.approx(expected, abs=1.6)


def test_no_motion_is_white():
    assert colour(0, 0) == colour(0, 0, largest=5) == [255, 255, 255]
    assert (flow_to_image(torch.zeros(2, 3, 4, 2)) == 1).all()


def test_colours_pale_with_the_share_of_the_largest_motion():
    full = colour(-4, 0, largest=4)
    half = colour(-2, 0, largest=4)
    assert half == pytest.approx([(255 + level) / 2 for level in full], abs=1e-3)
    assert colour(-40, 0, largest=80) == half


def test_longer_than_the_largest_is_darker():
    full = colour(0, 4, largest=4)
    assert colour(0, 5, largest=4) == pytest.approx([0.75 * level for level in full], abs=1e-3)


def test_by_default_the_largest_motion_anywhere_has_full_colour():
    flow = torch.zeros(2, 2, 3, 2)
    flow[0, 0, 0, 0], flow[1, 1, 2, 0] = 2, 8
    image = flow_to_image(flow)
    assert image[1, 1, 2].tolist() == [1, 0, 0]
    assert image[0, 0, 0].tolist() == [1, 0.75, 0.75]
    assert torch.equal(image, flow_to_image(flow, largest=8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_any_batch_is_shown_picture_by_picture(dtype):
    flow = torch.randn(2, 3, 5, 7, 2).to(dtype)
    image = flow_to_image(flow, largest=2)
    assert image.shape == (2, 3, 5, 7, 3)
    assert image.dtype == torch.float32
    assert image.min() >= 0
    assert image.max() <= 1
    torch.testing.assert_close(image[1, 2], flow_to_image(flow[1, 2], largest=2))


def test_colours_change_gradually_around_the_wheel():
    angles = torch.linspace(0.001, 2 * math.pi - 0.001, 1000)
    image = flow_to_image(torch.stack([angles.cos(), angles.sin()], -1)[None], largest=1.01)
    assert (image[0, 1:] - image[0, :-1]).abs().max() < 0.05


def test_what_is_not_finite_counts_as_no_motion():
    flow = torch.tensor([[[math.nan, 1.0], [math.inf, 0.0], [0.0, 2.0]]])
    image = flow_to_image(flow)
    assert torch.equal(image[0, 2], flow_to_image(flow[:, 2:])[0, 0])
    assert image.isfinite().all()
    assert image[0, 1].tolist() == [1, 1, 1]


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"\(2, 4, 5\), not \(\.\.\., H, W, 2\)"):
        flow_to_image(torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match="above 0"):
        flow_to_image(torch.zeros(4, 5, 2), largest=0)
