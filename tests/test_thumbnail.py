"""The small picture of a frame by which cuts and repeats are found."""

import pytest
import torch

from rife.analysis.cuts import CutDetector
from rife.analysis.duplicates import is_duplicate
from rife.analysis.thumbnail import make_thumbnail


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 5), (1, 5000), (5000, 1), (7, 900)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_frames_of_any_size_work(size, channels):
    images = [torch.randint(0, 256, (*size, channels), dtype=torch.uint8) for _ in range(3)]
    small = [make_thumbnail(image) for image in images]
    assert all(x.shape[0] == 3 and max(x.shape) <= 160 and min(x.shape) >= 1 for x in small)
    CutDetector().is_cut(*small[:2])
    assert is_duplicate(small[0], small[0])
    assert is_duplicate(small[0], small[0].clone())


def test_floats_bytes_alpha_and_grey_agree(bikes_shot):
    image = bikes_shot[0]
    want = make_thumbnail(image)
    assert want.dtype == torch.float32
    assert want.max() > 0.5
    alpha = torch.randint(0, 256, (*image.shape[:2], 1), dtype=torch.uint8)
    for same in (image / 255, (image / 255).half(), torch.cat((image, alpha), 2)):
        torch.testing.assert_close(make_thumbnail(same), want, atol=1e-3, rtol=0)
    grey = image[..., :1]
    torch.testing.assert_close(make_thumbnail(grey), make_thumbnail(grey.expand(-1, -1, 3)))
