"""MobileNetV2: a small ImageNet classifier whose weights are embedded as the alias `mobilenet_v2`.

An inverted residual block widens its input (1x1), filters each channel (3x3, depthwise) and
projects back to few channels (1x1, linear: no activation function after it); where stride and
width allow, it adds its input. Input [batch, 3, height, width], normalised with ImageNet's mean
(0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225), at its best 224x224; output
[batch, 1000] logits.

Source: Sandler et al. 2018 (arXiv 1801.04381). Modules are numbered as in torchvision, so that
its weights load strictly and its site names (`features.17.conv.1:out`) hold.
"""

from torch import Tensor, nn

# Widening, output channels, repeats, stride of the first repeat (table 2 of the paper).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1: [batch, 3, height, width] pictures -> [batch, classes] logits.

    >>> import torch
    >>> MobileNetV2(classes=10).eval()(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 10])
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolve(3, 32, kernel=3, stride=2)]
        channels = 32
        for widening, out, repeats, stride in STAGES:
            for repeat in range(repeats):
                layers.append(
                    _InvertedResidual(channels, out, widening, stride if repeat == 0 else 1)
                )
                channels = out
        layers.append(_convolve(channels, 1280))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, pictures: Tensor) -> Tensor:
        """[batch, 3, height, width] -> logits [batch, classes]."""
        return self.classifier(self.features(pictures).mean(dim=(2, 3)))


class _InvertedResidual(nn.Module):
    def __init__(self, channels: int, out: int, widening: int, stride: int) -> None:
        super().__init__()
        wide = channels * widening
        widen = [] if widening == 1 else [_convolve(channels, wide)]
        self.conv = nn.Sequential(
            *widen,
            _convolve(wide, wide, kernel=3, stride=stride, groups=wide),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.adds_input = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds_input else self.conv(x)


def _convolve(
    channels: int, out: int, *, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(),  # not in place, so that a reading of the norm's output stays what it was
    )
