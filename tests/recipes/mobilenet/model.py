"""MobileNetV1-0.25 (Howard et al. 2017) with batch normalization folded, as TensorFlow trained it."""

from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


class MobileNet(nn.Module):
    """image: float32 [batch, 3, 224, 224] in -1..1 -> logits: float32 [batch, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        widths = [channels // 4 for channels in CHANNELS]
        layers = [nn.Conv2d(3, widths[0], 3, stride=2)]
        for before, after, stride in zip(widths, widths[1:], STRIDES, strict=False):
            layers.append(nn.Conv2d(before, before, 3, stride=stride, groups=before))
            layers.append(nn.Conv2d(before, after, 1))
        self.convs = nn.ModuleList(layers)
        self.fc = nn.Linear(widths[-1], 1001)

    def forward(self, image: Tensor) -> Tensor:
        hidden = image
        for conv in self.convs:
            if conv.kernel_size == (3, 3):
                hidden = functional.pad(hidden, (0, 1, 0, 1) if conv.stride == (2, 2) else (1, 1, 1, 1))
            hidden = functional.relu6(conv(hidden))
        return self.fc(hidden.mean((2, 3)))[:, 1:]  # class 0 is "background", which ImageNet has not


def build() -> nn.Module:
    return MobileNet()
