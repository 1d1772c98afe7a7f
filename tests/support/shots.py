"""Frames of real shots: read from a clip, seen by a moving camera, encoded."""

import io

import av
import torch
import torch.nn.functional as F


def read_shot(path, first=0, count=10_000):
    """Frames of (H, W, 3), uint8, at half their size where they are wider than 640 pixels."""
    images = []
    with av.open(str(path)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i >= first + count:
                break
            if i >= first:
                width, height = (n // (1 + (n > 640)) for n in (frame.width, frame.height))
                image = frame.to_ndarray(format="rgb24", width=width, height=height)
                images.append(torch.from_numpy(image))
    return images


def encode_and_decode(images, crf=23):
    """The frames as they come back from H.264."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(crf)})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image.numpy(), "rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        return [torch.from_numpy(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def camera_view(image, x=0.0, y=0.0, zoom=1.0, size=(180, 320)):
    """`image` as a camera at (x, y) sees it, (*size, 3) floats; its borders are at -1 and 1."""
    affine = torch.tensor([[[1 / zoom, 0, x], [0, 1 / zoom, y]]])
    grid = F.affine_grid(affine, (1, 3, *size), align_corners=False)
    planes = image.permute(2, 0, 1)[None].float() / 255
    seen = F.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)
    return seen[0].permute(1, 2, 0)
