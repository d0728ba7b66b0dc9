"""DS-CNN for keyword spotting (Zhang et al. 2017) as in MLPerf Tiny, with separate batch normalization."""

from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-3
CLASSES = 12


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dw = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.bn1 = nn.BatchNorm2d(64, eps=EPSILON)
        self.pw = nn.Conv2d(64, 64, 1)
        self.bn2 = nn.BatchNorm2d(64, eps=EPSILON)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.dw(hidden)))
        return functional.relu(self.bn2(self.pw(hidden)))


class DsCnn(nn.Module):
    """features: float32 [batch, 1, 49, 10] (MFCC) -> logits: float32 [batch, 12]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(1, 64, (10, 4), stride=2)
        self.bn0 = nn.BatchNorm2d(64, eps=EPSILON)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.fc = nn.Linear(64, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        hidden = functional.relu(self.bn0(self.conv0(functional.pad(features, (1, 1, 4, 5)))))
        for block in self.blocks:
            hidden = block(hidden)
        return self.fc(hidden.mean((2, 3)))


def build() -> nn.Module:
    return DsCnn()
