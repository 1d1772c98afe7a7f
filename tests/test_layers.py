"""Fused layers compute what the modules do from which they are built."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rife.engine.layers import FusedConvolution, UpsamplingConvolution, fuse_layers

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def image(channels, dtype=torch.float32):
    x = torch.randn(2, channels, 9, 14, generator=torch.Generator().manual_seed(0))
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def close(result, expected, dtype):
    return (result.float() - expected.float()).abs().max() <= DTYPES[dtype] * expected.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "planes"), [(45, 1), (45, 4), (240, 5), (64, 16)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_transposed_convolutions(dtype, channels, planes, shuffle):
    torch.manual_seed(1)
    conv = nn.ConvTranspose2d(channels, 4 * planes if shuffle else planes, 4, 2, 1).to(dtype)
    plain = nn.Sequential(conv, *[nn.PixelShuffle(2)] * shuffle)
    x = image(channels, dtype)
    with torch.inference_mode():
        result, expected = fuse_layers(plain)(x), plain(x)
    assert result.shape == expected.shape
    assert close(result, expected, dtype)


@pytest.mark.parametrize("planes", [1, 2, 5])
def test_what_a_compiled_kernel_reads_lies_in_one_piece(planes):
    """A bias that repeats one number could be a view; a kernel would read what lies after it."""
    layer = UpsamplingConvolution(nn.ConvTranspose2d(8, planes, 4, 2, 1)).layer
    assert layer.bias.is_contiguous()
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, nn.LeakyReLU(0.2), nn.PReLU(20)])
def test_parts_are_as_good_as_one_tensor(dtype, activation):
    torch.manual_seed(1)
    conv = nn.Conv2d(28, 20, 3, 2, 1).to(dtype)
    layer = FusedConvolution(conv)
    if activation:
        layer.absorb_activation(activation.to(dtype))
    x = image(28, dtype)
    with torch.inference_mode():
        expected = (activation or nn.Identity())(F.conv2d(x, conv.weight, conv.bias, 2, 1))
        result = layer(
            [part.contiguous(memory_format=torch.channels_last) for part in x.split(7, 1)]
        )
    assert close(result, expected, dtype)


def test_a_layer_that_an_activation_follows_keeps_its_dtype():
    layers = nn.Sequential(nn.ConvTranspose2d(8, 5, 4, 2, 1), nn.PReLU(5)).bfloat16()
    with torch.inference_mode():
        assert fuse_layers(layers)(image(8, torch.bfloat16)).dtype == torch.bfloat16
