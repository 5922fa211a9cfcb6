import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jackfield.model.mobilenet import MobileNetV2
from jackfield.model.sources import open_source

# Rows of ImageNet's list of classes.
MONASTERY, PALACE = 663, 698


@pytest.fixture(scope="module")
def net():
    return open_source("mobilenet_v2").module


def picture(name: str) -> torch.Tensor:
    """A photograph of scikit-learn's as ImageNet models see it: [1, 3, 224, 224]."""
    from sklearn.datasets import load_sample_image

    pixels = torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1)[None] / 255
    height, width = pixels.shape[-2:]
    scale = 256 / min(height, width)
    pixels = F.interpolate(pixels, size=(round(height * scale), round(width * scale)), mode="area")
    top, left = (pixels.shape[-2] - 224) // 2, (pixels.shape[-1] - 224) // 2
    pixels = pixels[..., top : top + 224, left : left + 224]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pixels - mean[:, None, None]) / deviation[:, None, None]


def functional_mobilenet(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The network written a second time, from the state dict alone: strides as in the paper."""

    def norm(x, key):
        mean, var = weights[f"{key}.running_mean"], weights[f"{key}.running_var"]
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return x * weights[f"{key}.weight"][:, None, None] + weights[f"{key}.bias"][:, None, None]

    def layer(x, key, stride=1):
        w = weights[f"{key}.0.weight"]
        groups = x.shape[1] if w.shape[1] == 1 else 1
        x = F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2, groups=groups)
        return norm(x, f"{key}.1").clamp(0, 6)

    x = layer(x, "features.0", stride=2)
    for block in range(1, 18):
        at, skip = f"features.{block}.conv", x
        stride = 2 if block in (2, 4, 7, 14) else 1
        depth = 0 if block == 1 else 1
        if depth:
            x = layer(x, f"{at}.0")
        x = layer(x, f"{at}.{depth}", stride)
        x = norm(F.conv2d(x, weights[f"{at}.{depth + 1}.weight"]), f"{at}.{depth + 2}")
        x = x + skip if x.shape == skip.shape else x
    x = layer(x, "features.18").mean((2, 3))
    return x @ weights["classifier.1.weight"].T + weights["classifier.1.bias"]


def test_forward_equals_the_network_written_from_its_weights(net):
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = functional_mobilenet(net.state_dict(), x)
        torch.testing.assert_close(net(x), expected, atol=2e-4, rtol=1e-4)


def test_palace_in_a_photograph_is_recognised(net):
    with torch.no_grad():
        best = net(picture("china.jpg"))[0].softmax(-1).topk(2)
    assert best.indices.tolist() == [PALACE, MONASTERY]
    assert best.values[0] > 0.5


def test_reading_a_norm_is_not_overwritten_by_what_follows(net):
    seen = []
    hook = net.features[0][1].register_forward_hook(lambda module, given, out: seen.append(out))
    try:
        with torch.no_grad():
            net(torch.randn(1, 3, 64, 64))
    finally:
        hook.remove()
    assert seen[0].min() < 0


def test_opening_draws_no_random_numbers():
    before = torch.random.get_rng_state()
    open_source("mobilenet_v2")
    assert torch.equal(before, torch.random.get_rng_state())


def test_parameters_are_as_published():
    assert sum(p.numel() for p in MobileNetV2().parameters()) == 3_504_872
