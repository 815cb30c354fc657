"""A scanner in the projection domain, slow and straightforward: the oracle of the image-domain model.

Parallel beam over half a turn, ramp filter times the kernel, linear interpolation in the backprojection. The variance of every
pixel follows exactly from the variance of the rays, so that no sampling error hides a difference.

`fine` > 1 interpolates almost without aliasing: filtered rays on a finer grid, times the sinc^2 that linear interpolation has below
the detector's Nyquist frequency. What linear interpolation (fine = 1) lets through above it is then gone.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from p2pftl.imaging import acquisition as model

HALF = 2  # a full turn measures each line twice


def rays(hu, pixel, scanner, geometry):
    """Photons of each ray [views, channels]: line integrals by rotating and adding up, opposite rays joined."""
    side = hu.shape[-1]
    mu = model.water_mu(scanner.kvp) * (hu.clamp(min=-1000) / 1000 + 1)
    views, step = geometry.views // HALF, pixel * 0.75
    channels = int(side * pixel * 1.42 / geometry.sample_mm) // 2 * 2 + 1
    s = (torch.arange(channels) - (channels - 1) / 2) * geometry.sample_mm
    t = (torch.arange(2 * side) - side + 0.5) * step
    lines = []
    for angle in torch.arange(views) * (math.pi / views):
        x = s[None] * angle.cos() - t[:, None] * angle.sin()
        y = s[None] * angle.sin() + t[:, None] * angle.cos()
        grid = torch.stack([x, y], -1)[None] / (side * pixel / 2)
        lines.append(F.grid_sample(mu[None, None], grid, align_corners=False)[0, 0].sum(0) * step)
    return HALF * model.photons_in_air(scanner, geometry) * torch.exp(-torch.stack(lines))


def ray_variance(photons, scanner):
    """Of a post-log ray that two opposite measurements give, each with its own electronic noise."""
    electronic = model.ELECTRONIC_KEV / float(np.interp(scanner.kvp, model.TUBE_KV, model.MEAN_KEV))
    return model.SWANK / photons + HALF * (electronic / photons) ** 2


def impulse(kernel, geometry, length, fine=1):
    """The filter in space [2 fine length - 1], in steps of a channel / fine: ramp times the kernel's apodisation."""
    size = 1 << math.ceil(math.log2(4 * length))
    at = np.fft.fftfreq(size, 1 / size).astype(int)
    ramp = np.where(at == 0, 0.25, np.where(at % 2 == 1, -1 / (math.pi * np.where(at == 0, 1, at)) ** 2, 0.0))
    f = np.fft.fftfreq(size, geometry.sample_mm)
    response = np.abs(np.fft.fft(ramp)) / geometry.sample_mm * model.apodisation(kernel, np.abs(f), geometry)
    if fine > 1:
        response = response * np.sinc(f * geometry.sample_mm) ** 2
        padded = np.zeros(size * fine)
        padded[at % (size * fine)] = response * fine
        response = padded
    filtered = np.fft.ifft(response).real
    return np.roll(filtered, fine * length - 1)[: 2 * fine * length - 1]


def spread_out(rows, fine):
    """Rows with fine - 1 zeros after each value."""
    found = torch.zeros(*rows.shape[:-1], rows.shape[-1] * fine, dtype=torch.float64)
    found[..., ::fine] = rows.double()
    return found


def convolve(rows, taps):
    size = 1 << math.ceil(math.log2(rows.shape[-1] + len(taps)))
    wave = torch.fft.rfft(rows.double(), size) * torch.fft.rfft(torch.from_numpy(taps), size)
    middle = (len(taps) - 1) // 2
    return torch.fft.irfft(wave, size)[..., middle : middle + rows.shape[-1]]


def positions(side, pixel, views, channels, sample, fine):
    line = (torch.arange(side) - (side - 1) / 2) * pixel
    for angle in torch.arange(views) * (math.pi / views):
        s = ((line[None] * angle.cos() + line[:, None] * angle.sin()) / sample + (channels - 1) / 2) * fine
        low = s.clamp(0, channels * fine - 1.001).long()
        yield low, (s - low).double()


def noise_sd(hu, pixel, scanner, geometry, fine=1):
    """Exact standard deviation of every pixel [n, n] HU."""
    photons = rays(hu, pixel, scanner, geometry)
    variance = ray_variance(photons, scanner)
    views, channels = variance.shape
    taps = impulse(scanner.kernel, geometry, channels, fine)
    later = np.append(taps[1:], 0.0)
    apart = spread_out(variance, fine)
    own, cross = convolve(apart, taps**2), convolve(apart, taps * later)
    total = torch.zeros(hu.shape, dtype=torch.float64)
    for view, (low, share) in enumerate(positions(hu.shape[-1], pixel, views, channels, geometry.sample_mm, fine)):
        next_one = low + 1
        total += own[view][low] * (1 - share) ** 2 + own[view][next_one] * share**2 + 2 * cross[view][low] * share * (1 - share)
    return total.sqrt() * (math.pi / views) * 1000 / model.water_mu(scanner.kvp)


def noise_images(hu, pixel, scanner, geometry, count, seed, fine=1):
    """`count` images of noise alone [count, n, n] HU."""
    spread = ray_variance(rays(hu, pixel, scanner, geometry), scanner).sqrt()
    views, channels = spread.shape
    taps = impulse(scanner.kernel, geometry, channels, fine)
    white = torch.from_numpy(np.random.Generator(np.random.Philox(seed)).standard_normal((count, views, channels)))
    filtered = convolve(spread_out(white * spread, fine), taps)
    images = torch.zeros(count, *hu.shape, dtype=torch.float64)
    for view, (low, share) in enumerate(positions(hu.shape[-1], pixel, views, channels, geometry.sample_mm, fine)):
        row = filtered[:, view]
        images += row[:, low] * (1 - share) + row[:, low + 1] * share
    return images * (math.pi / views) * 1000 / model.water_mu(scanner.kvp)


def thorax(side, pixel):
    """Body, lungs, heart and spine as ellipses, HU [n, n]."""
    line = (torch.arange(side) - (side - 1) / 2) * pixel
    x, y = line[None], line[:, None]
    image = torch.full((side, side), -1000.0)

    def put(cx, cy, rx, ry, hu):
        image[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1] = hu

    put(0, 0, 155, 105, 40.0)
    put(-75, -5, 55, 75, -800.0)
    put(75, -5, 55, 75, -800.0)
    put(15, -20, 45, 40, 45.0)
    put(0, 70, 22, 22, 300.0)
    return image


def angular_power(images, sectors=8):
    """Share of the noise power in each of `sectors` directions, of patches [..., m, m]."""
    power = (torch.fft.fft2(images - images.mean((-1, -2), keepdim=True)).abs() ** 2).reshape(-1, *images.shape[-2:]).mean(0)
    f = torch.fft.fftfreq(images.shape[-1])
    angle = torch.atan2(f[:, None], f[None]) % math.pi
    which = (angle / (math.pi / sectors)).long().clamp(max=sectors - 1)
    found = torch.stack([power[which == number].mean() for number in range(sectors)])
    return found / found.mean()


def radial_power(images, pixel, bins=16):
    """Radial noise power of patches [..., m, m], normalised to sum 1, up to Nyquist."""
    power = (torch.fft.fft2(images - images.mean((-1, -2), keepdim=True)).abs() ** 2).reshape(-1, *images.shape[-2:]).mean(0)
    f = torch.fft.fftfreq(images.shape[-1], pixel)
    r = torch.hypot(f[:, None], f[None])
    which = (r / (0.5 / pixel) * bins).long()
    found = torch.stack([power[which == number].mean() for number in range(bins)])
    return found / found.sum()


def ring_peak(kernel, kvp, geometry, eps, radius):
    """Peak HU at `radius` mm of the ring that one channel with gain error `eps` leaves, full turn of parallel rays."""
    channels = int(2 * radius / geometry.sample_mm) + 81
    taps = torch.from_numpy(impulse(kernel, geometry, channels))
    views = 4 * geometry.views  # so that no streak between views is left
    place = round(radius / geometry.sample_mm)
    angle = torch.arange(views, dtype=torch.float64) * (2 * math.pi / views)
    r = torch.linspace(radius - 1.5, radius + 1.5, 121, dtype=torch.float64)
    s = r[:, None] * angle.cos()[None] / geometry.sample_mm - place
    low = s.floor().long()
    share = s - low
    middle = channels - 1
    reach = (low.abs() < channels - 2) & ((low + 1).abs() < channels - 2)
    low = torch.where(reach, low, 0)
    value = (taps[middle + low] * (1 - share) + taps[middle + low + 1] * share) * reach
    image = value.sum(1) * (math.pi / views) * math.log1p(eps) * 1000 / model.water_mu(kvp)
    return image.max().item()
