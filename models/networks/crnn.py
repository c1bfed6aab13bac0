"""CRNN-MRI: Qin et al., "Convolutional recurrent neural networks for dynamic MR image reconstruction", IEEE TMI 2019;38:280.

Parameters have the names that its checkpoints use.
"""

import torch
from torch import Tensor, nn

from ..cnn import conv
from ..consistency import replace_measured
from .steps import prepare


class RecurrentCell(nn.Module):
    """Convolutions of the input, of the state of the neighbouring frame, and of the iteration before (eq. 5)."""

    def __init__(self, inputs: int, chans: int) -> None:
        super().__init__()
        self.i2h: nn.Module = conv(inputs, chans, bias=True)
        self.h2h: nn.Module = conv(chans, chans, bias=True)
        self.ih2ih: nn.Module = conv(chans, chans, bias=True)


class BidirectionalLayer(nn.Module):
    """The cell along time, forwards and backwards; both states are added."""

    def __init__(self, inputs: int, chans: int) -> None:
        super().__init__()
        self.CRNN_model: RecurrentCell = RecurrentCell(inputs, chans)

    def forward(self, series: Tensor, state: Tensor, batch: int) -> Tensor:
        """Return [batch x frames, chans, y, x]; ``state`` is that of the iteration before."""
        cell = self.CRNN_model
        driven = (cell.i2h(series) + cell.ih2ih(state)).unflatten(0, [batch, -1])
        forwards: list[Tensor] = []
        backwards: list[Tensor] = []
        hidden = torch.zeros_like(driven[:, 0])
        for frame in range(driven.shape[1]):
            hidden = torch.relu(driven[:, frame] + cell.h2h(hidden))
            forwards.append(hidden)
        hidden = torch.zeros_like(driven[:, 0])
        for frame in range(driven.shape[1]):
            hidden = torch.relu(driven[:, driven.shape[1] - 1 - frame] + cell.h2h(hidden))
            backwards.append(hidden)
        backwards.reverse()
        return (torch.stack(forwards, dim=1) + torch.stack(backwards, dim=1)).flatten(0, 1)


class CrnnMri(nn.Module):
    """Convolutional recurrent network: the states go from frame to frame and from iteration to iteration.

    Parameters
    ----------
    iterations
        Number of unrolled iterations, all with the same weights.
    chans
        Features.
    """

    def __init__(self, iterations: int = 5, chans: int = 64) -> None:
        super().__init__()
        self.iterations = iterations
        self.chans = chans
        self.bcrnn: BidirectionalLayer = BidirectionalLayer(2, chans)
        self.conv1_x: nn.Module = conv(chans, chans, bias=True)
        self.conv1_h: nn.Module = conv(chans, chans, bias=True)
        self.conv2_x: nn.Module = conv(chans, chans, bias=True)
        self.conv2_h: nn.Module = conv(chans, chans, bias=True)
        self.conv3_x: nn.Module = conv(chans, chans, bias=True)
        self.conv3_h: nn.Module = conv(chans, chans, bias=True)
        self.conv4_x: nn.Module = conv(chans, 2, bias=True)

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct the complex series [batch, frames, y, x, 2]; inputs as in ``prepare``."""
        measured, weights, maps, axes, image = prepare(kspace, mask, maps)
        batch = image.shape[0]
        series = image.flatten(0, 1).movedim(-1, 1)
        states = [torch.zeros_like(series[:, :1]).repeat([1, self.chans, 1, 1]) for _ in range(4)]
        for _ in range(self.iterations):
            recurrent = self.bcrnn(series, states[0], batch)
            first = torch.relu(self.conv1_x(recurrent) + self.conv1_h(states[1]))
            second = torch.relu(self.conv2_x(first) + self.conv2_h(states[2]))
            third = torch.relu(self.conv3_x(second) + self.conv3_h(states[3]))
            states = [recurrent, first, second, third]
            predicted = (series + self.conv4_x(third)).movedim(1, -1).reshape(image.shape)
            image = replace_measured(predicted, measured, maps, weights, axes)
            series = image.flatten(0, 1).movedim(-1, 1)
        return image
