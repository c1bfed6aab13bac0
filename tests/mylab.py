"""Own modules as laboratories write them, which tests export: most of them work, and some cannot."""

import numpy as np
import torch
from torch import nn


class ComplexNet(nn.Module):
    """Complex tensors, torch.fft with shifts, a closure: nothing that TorchScript or ONNX know."""

    def __init__(self, steps=1):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(2, 2, 3, padding=1) for _ in range(steps)])

    def forward(self, kspace, mask, maps):
        def image(k):
            k = torch.fft.ifftshift(k, dim=(-2, -1))
            return torch.fft.fftshift(torch.fft.ifft2(k, norm="ortho"), dim=(-2, -1))

        x = (maps.conj() * image(kspace * mask)).sum(1)
        for conv in self.convs:
            k = torch.fft.fftshift(
                torch.fft.fft2(torch.fft.ifftshift(maps * x[:, None], dim=(-2, -1)), norm="ortho"), dim=(-2, -1)
            )
            x = x - (maps.conj() * image(torch.where(mask, k - kspace, torch.zeros_like(k)))).sum(1)
            x = x + torch.view_as_complex(
                conv(torch.view_as_real(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
            )
        return x


class Baked(nn.Module):
    def forward(self, kspace):
        return (kspace[..., 0] * torch.hann_window(int(kspace.shape[-2]))).sum(1)


class Unknown(nn.Module):
    def forward(self, data):
        return data


class Image(nn.Module):
    """Coil images, combined; takes its arguments by other names and in another order, and divides by the signal."""

    def combine(self, masked_kspace, mask, sens_maps):
        k = torch.fft.ifftshift(masked_kspace * mask, dim=(-2, -1))
        x = (sens_maps.conj() * torch.fft.fftshift(torch.fft.ifft2(k, norm="ortho"), dim=(-2, -1))).sum(1)
        return x / x.abs().amax(dim=(1, 2), keepdim=True) + 0.5

    def forward(self, sens_maps, masked_kspace, mask):
        return self.combine(masked_kspace, mask, sens_maps)


class OneChannel(Image):
    def forward(self, sens_maps, masked_kspace, mask):
        return self.combine(masked_kspace, mask, sens_maps).abs().unsqueeze(1)


class TwoChannels(Image):
    def forward(self, sens_maps, masked_kspace, mask):
        x = self.combine(masked_kspace, mask, sens_maps)
        return torch.stack([x.real, x.imag], dim=1)


class MaskOfLines(Image):
    def forward(self, maps, kspace, mask):
        assert mask.dim() == 2
        return self.combine(kspace, mask[:, None, :, None], maps)


class WithoutMask(Image):
    def forward(self, maps, kspace):
        return self.combine(kspace, torch.ones_like(kspace.real), maps)


class Pair(Image):
    def forward(self, sens_maps, masked_kspace, mask):
        x = self.combine(masked_kspace, mask, sens_maps)
        return x, x


class FromImage(nn.Module):
    """A network from image to image, which triples it."""

    def __init__(self, chans=2):
        super().__init__()
        self.conv = nn.Conv2d(chans, chans, 1, bias=False)
        nn.init.zeros_(self.conv.weight)
        for channel in range(chans):
            self.conv.weight.data[channel, channel] = 3.0

    def forward(self, x):
        return self.conv(x)


class Either(nn.Module):
    def forward(self, kspace):
        return kspace[:, 0] * 2


class Cropped(nn.Module):
    def forward(self, kspace):
        return kspace[:, 0, 1:]


class Narrow(nn.Module):
    """Names float32 in its code, as programs do that were never run in another precision."""

    def forward(self, kspace):
        offset = torch.full([1], 0.1, dtype=torch.float32)
        x = kspace.to(torch.float32).square().sum(-1)
        return (torch.fft.fft2(x.to(torch.complex64), norm="ortho").abs().float() + offset + torch.ones(1)).sum(1)


class OfOneSize(nn.Module):
    def forward(self, kspace):
        return kspace[..., 0].sum(1) * torch.ones(37, 50)


class Odd(nn.Module):
    """Returns what cannot be compared, or works for one size only."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, image):
        if self.how == "random":
            return image + torch.randn_like(image)
        return image / 0 if self.how == "infinite" else image * torch.ones(48, 40)


class Counted(nn.Module):
    """Counts channels with NumPy, as some programs do, and attends."""

    def __init__(self, chans=4, fail=False):
        super().__init__()
        if fail:
            raise ValueError("so many channels there are not")
        torch.manual_seed(1)
        self.conv = nn.Conv2d(2, int(chans), 1)
        self.back = nn.ModuleList([nn.Conv2d(int(chans), 2, 1)])
        self.conv.in_channels = np.int64(2)
        self.counts = (np.int64(1), np.int64(chans))

    def forward(self, x):
        y = self.conv(x).flatten(2).transpose(1, 2)
        y = (
            torch.nn.functional.scaled_dot_product_attention(y, y, y)
            .transpose(1, 2)
            .reshape(-1, 4, x.shape[2], x.shape[3])
        )
        for back in self.back:
            x = x + torch.fft.irfft2(torch.fft.rfft2(back(y)), s=(x.shape[2], x.shape[3]))
        return x


class CoilByCoil(nn.Module):
    def forward(self, kspace):
        return torch.stack([kspace[:, coil, ..., 0] for coil in range(kspace.shape[1])]).sum(0)


class Plain(nn.Module):
    """An image network with weights, of so many iterations."""

    def __init__(self, iterations=1):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.iterations = iterations

    def forward(self, x):
        for _ in range(self.iterations):
            x = x + self.conv(x)
        return x


class Loaded(Plain):
    """Has its weights from somewhere else than a checkpoint."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.conv.weight.fill_(0.1)
            self.conv.bias.fill_(0.2)


class Random(Plain):
    """Has a random tensor that no checkpoint holds."""

    def __init__(self, kept=False):
        super().__init__()
        self.register_buffer("direction", torch.rand(3, 3), persistent=kept)

    def forward(self, x):
        return super().forward(x) + torch.nn.functional.conv2d(x, self.direction[None, None], padding=1)


class Fragile(Plain):
    """Fails with weights that nobody trained."""

    def forward(self, x):
        if bool((self.conv.weight.abs() > 0.35).any()):
            raise ValueError("these weights are too large")
        return super().forward(x)
