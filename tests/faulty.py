"""Reconstructions that go wrong when their input is strong, and are well until then, as in their export."""

import torch


class Faulty(torch.nn.Module):
    """Root-sum-of-squares of k-space itself: no image, but it has the shape of one."""

    def reconstruct(self, kspace: torch.Tensor) -> torch.Tensor:
        return kspace.square().sum(dim=-1).sum(dim=1).sqrt()


class ReturnsNan(Faulty):
    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        image = self.reconstruct(kspace)
        if bool(kspace.abs().max() > 100.0):
            image = image / torch.zeros_like(image) * 0
        return image


class Raises(Faulty):
    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        if bool(kspace.abs().max() > 100.0):
            raise ValueError("this input is too strong")
        return self.reconstruct(kspace)


class Hangs(Faulty):
    """Works for some seconds without any use; forever would keep a core busy until the tests are over."""

    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        image = self.reconstruct(kspace)
        if bool(kspace.abs().max() > 100.0):
            wasted = torch.zeros(1000)
            for _ in range(600000):
                wasted = wasted + 1.0
            image = image + wasted[0] * 0
        return image


class NeedsMemory(Faulty):
    """Has no memory for more than two slices at once, and for a strong one not even alone."""

    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        image = self.reconstruct(kspace)
        if kspace.size(0) > 2 or bool(kspace.abs().max() > 100.0):
            image = image + torch.empty(1 << 50)[0] * 0
        return image


class Signed(Faulty):
    """Returns real values, of which strong input has many below zero."""

    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        image = self.reconstruct(kspace)
        if bool(kspace.abs().max() > 100.0):
            image = -image
        return image


class Convolves(Faulty):
    """Goes never wrong; a second runtime on the CPU is for its convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.smooth = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
        torch.nn.init.constant_(self.smooth.weight, 1 / 9)

    def forward(self, kspace: torch.Tensor) -> torch.Tensor:
        return self.smooth(self.reconstruct(kspace).unsqueeze(1)).squeeze(1)
