"""Ten corruptions of 32 x 32 images, after Hendrycks and Dietterich.

"Benchmarking Neural Network Robustness to Common Corruptions and Perturbations" (ICLR 2019), with
the strengths of its CIFAR-10-C. Written for many images at once on NumPy, SciPy and Pillow: the
packages that carry the original need OpenCV and ImageMagick, and use ImageNet's strengths. So
pixels differ from CIFAR-10-C's:

- frost: the original overlays photographs of frosted glass; here ice crystals are drawn;
- snow: flakes are drawn out by our own motion blur instead of ImageMagick's;
- spatter, severities 1 to 3 (water): the drops' relief comes from an exact distance transform
  instead of Canny edges; severities 4 and 5 (mud) follow the original;
- elastic: the affine map and the displacement are applied in one interpolation instead of two.

Some definitions are not monotone in the severity: `saturate` takes colour away at 1 and 2 and adds
it from 3 on, `spatter` changes from water to mud, `elastic` from large to small waves.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image
from scipy import ndimage

__all__ = ["CORRUPTIONS", "corrupt"]

CHUNK = 512
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def corrupt(images: np.ndarray, name: str, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Return corrupted images.

    Args:
        images: (n, S, S, 3) uint8; S is a power of two.
        name: Key of `CORRUPTIONS`.
        severity: 1 to 5.
        rng: Of what the corruption draws.

    Returns:
        (n, S, S, 3) uint8.
    """
    result = np.empty_like(images)
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        x = CORRUPTIONS[name](part.astype(np.float32) / 255, severity, rng)
        result[start : start + CHUNK] = np.rint(255 * np.clip(x, 0, 1))
    return result


def snow(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Whiten, and add streaks of falling flakes."""
    mean, scale, zoom, threshold, length, width, keep = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    flakes = rng.normal(mean, scale, size=x.shape[:3]).astype(np.float32)
    flakes = _zoom(flakes, zoom)
    flakes[flakes < threshold] = 0
    angle = np.deg2rad(rng.uniform(-135, -45, size=len(x)))
    flakes = _streak(flakes.clip(0, 1), angle, length, width)
    grey = (x @ LUMA)[..., None]
    whitened = keep * x + (1 - keep) * np.maximum(x, 1.5 * grey + 0.5)
    return whitened + (flakes + np.rot90(flakes, 2, axes=(1, 2)))[..., None]


def frost(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Overlay ice: bluish white veins and six-armed feathers, in patches."""
    keep, ice = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    n, size = x.shape[:2]
    # Veins: the lines along which a rough height field crosses its middle.
    veins = (1 - np.abs(2 * _plasma(n, size, 1.5, rng) - 1)) ** 5
    seeds = (rng.uniform(size=(n, size, size)) < 0.02).astype(np.float32)
    turn = rng.uniform(0, np.pi, size=n)
    feathers = np.zeros_like(seeds)
    for side in range(6):
        feathers = np.maximum(feathers, _streak(seeds, turn + side * np.pi / 3, 7, 3))
    feathers /= np.maximum(feathers.max(axis=(1, 2), keepdims=True), 1e-6)
    cover = _plasma(n, size, 3, rng)
    crystals = 0.1 + cover * (0.3 + 0.8 * np.maximum(veins, feathers))
    tint = np.array([0.86, 0.94, 1.0], dtype=np.float32)
    return keep * x + ice * crystals[..., None] * tint


def fog(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Add a cloudy height field and scale back to the image's own brightest value."""
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    cloud = _plasma(len(x), x.shape[1], decay**2, rng)[..., None]
    return (x + amount * cloud) * brightest / (brightest + amount)


def brightness(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Raise the value of hue, saturation and value."""
    del rng
    amount = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = x.max(axis=3, keepdims=True)
    raised = (value + amount).clip(0, 1)
    # With hue and saturation kept, all three channels grow by one factor; black becomes grey.
    return np.where(value > 0, x * (raised / np.maximum(value, 1e-6)), raised)


def contrast(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Shrink towards the mean of each channel."""
    del rng
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    mean = x.mean(axis=(1, 2), keepdims=True)
    return mean + factor * (x - mean)


def spatter(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Splash water (severities 1 to 3) or mud (4 and 5)."""
    mean, scale, blur, threshold, strength = (
        (0.62, 0.1, 0.7, 0.7, 0.5),
        (0.65, 0.1, 0.8, 0.7, 0.5),
        (0.65, 0.3, 1, 0.69, 0.5),
        (0.65, 0.1, 0.7, 0.69, 0.6),
        (0.65, 0.1, 0.5, 0.68, 0.6),
    )[severity - 1]
    liquid = rng.normal(mean, scale, size=x.shape[:3]).astype(np.float32)
    liquid = ndimage.gaussian_filter(liquid, (0, blur, blur), mode="nearest")
    wet = liquid > threshold
    if severity >= 4:
        mask = ndimage.gaussian_filter(wet.astype(np.float32), (0, strength, strength))
        mask[mask < 0.8] = 0
        mud = np.array([63, 42, 20], dtype=np.float32) / 255
        return x * (1 - mask[..., None]) + mud * mask[..., None]
    # Light falls on the drops from one corner: their height's slope decides how bright they are.
    height = np.zeros_like(liquid)
    for each, drop in enumerate(wet):
        height[each] = ndimage.distance_transform_edt(drop)
    height = ndimage.gaussian_filter(height, (0, 0.7, 0.7))
    slope = ndimage.sobel(height, axis=1) + ndimage.sobel(height, axis=2)
    relief = np.where(wet, liquid * (0.5 + slope.clip(0)), 0)
    relief /= np.maximum(relief.max(axis=(1, 2), keepdims=True), 1e-6)
    water = np.array([175, 238, 238], dtype=np.float32) / 255
    return x + strength * relief[..., None] * water


def elastic(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Apply a small random affine map and a smooth random displacement."""
    n, size = x.shape[:2]
    amplitude, smoothness, jitter = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[severity - 1]
    middle, arm = size // 2, size // 3
    corners = middle + arm * np.array([[1, 1], [1, -1], [-1, -1]], dtype=float)
    moved = corners + size * jitter * rng.uniform(-1, 1, size=(n, 3, 2))
    # Pixels are fetched, so the map from the moved corners back to the old ones is what is needed.
    ones = np.ones((n, 3, 1))
    back = np.linalg.solve(np.concatenate([moved, ones], axis=2), corners)
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), axis=-1).reshape(
        -1, 2
    )
    displaced = np.broadcast_to(grid.astype(float), (n, size * size, 2))
    if amplitude:
        wave = rng.uniform(-1, 1, size=(n, size, size, 2))
        sigma = (0, size * smoothness, size * smoothness, 0)
        wave = ndimage.gaussian_filter(wave, sigma, mode="reflect", truncate=3)
        displaced = displaced + size * amplitude * wave.reshape(n, -1, 2)
    homogeneous = np.concatenate([displaced, np.ones((n, size * size, 1))], axis=2)
    return _fetch(x, (homogeneous @ back).reshape(n, size, size, 2))


def jpeg(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Compress as JPEG."""
    del rng
    quality = (80, 65, 58, 50, 40)[severity - 1]

    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(x, compressed)


def pixelate(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Make smaller and large again, without smoothing."""
    del rng
    size = x.shape[1]
    small = int(size * (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1])

    def pixelated(image: Image.Image) -> Image.Image:
        reduced = image.resize((small, small), Image.Resampling.BOX)
        return reduced.resize((size, size), Image.Resampling.BOX)

    return _each(x, pixelated)


def saturate(x: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Change the saturation of hue, saturation and value."""
    del rng
    factor, offset = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    value = x.max(axis=3, keepdims=True)
    span = value - x.min(axis=3, keepdims=True)
    saturation = span / np.maximum(value, 1e-6)
    changed = (saturation * factor + offset).clip(0, 1)
    # How far each channel lies below the value, per unit of saturation; grey has the hue of red.
    below = np.where(span > 0, (value - x) / np.maximum(span, 1e-6), np.array([0, 1, 1]))
    return value * (1 - changed * below)


Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

CORRUPTIONS: Mapping[str, Corruption] = {
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "spatter": spatter,
    "elastic": elastic,
    "jpeg": jpeg,
    "pixelate": pixelate,
    "saturate": saturate,
}
"""Each maps (n, S, S, 3) float32 in [0, 1], a severity and a generator to the same shape, which may
leave [0, 1]."""


def _each(x: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    images = np.rint(255 * x).astype(np.uint8)
    changed = [np.asarray(change(Image.fromarray(image))) for image in images]
    return np.stack(changed).astype(np.float32) / 255


def _plasma(n: int, size: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Draw cloudy height fields by the diamond-square rule on a torus.

    Args:
        n: How many.
        size: Side, a power of two.
        decay: Factor by which the random part shrinks when the grid gets twice as fine.
        rng: Of the draws.

    Returns:
        (n, size, size) float32, each from 0 to 1.
    """
    field = np.zeros((n, size, size), dtype=np.float32)
    step, rough = size, 1.0
    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        shape = corners.shape

        def noise(shape: tuple[int, ...] = shape, rough: float = rough) -> np.ndarray:
            return rng.uniform(-rough, rough, size=shape).astype(np.float32)

        right = np.roll(corners, -1, axis=2)
        centres = (corners + right + np.roll(corners + right, -1, axis=1)) / 4 + noise()
        field[:, half::step, half::step] = centres
        across = corners + right + centres + np.roll(centres, 1, axis=1)
        field[:, ::step, half::step] = across / 4 + noise()
        down = corners + np.roll(corners, -1, axis=1) + centres + np.roll(centres, 1, axis=2)
        field[:, half::step, ::step] = down / 4 + noise()
        step, rough = half, rough / decay
    field -= field.min(axis=(1, 2), keepdims=True)
    return field / field.max(axis=(1, 2), keepdims=True)


def _zoom(layers: np.ndarray, factor: float) -> np.ndarray:
    """Enlarge the middle of (n, S, S) layers to the full size."""
    if factor == 1:
        return layers
    size = layers.shape[1]
    inner = int(np.ceil(size / factor))
    first = (size - inner) // 2
    part = layers[:, first : first + inner, first : first + inner]
    larger = np.asarray(ndimage.zoom(part, (1, factor, factor), order=1))
    first = (larger.shape[1] - size) // 2
    return larger[:, first : first + size, first : first + size]


def _streak(layers: np.ndarray, angle: np.ndarray, length: int, width: float) -> np.ndarray:
    """Draw points of (n, S, S) layers out into lines that fade.

    Args:
        layers: What to draw out.
        angle: (n,) direction of the lines, in radians from the rows.
        length: Their length in pixels.
        width: Standard deviation of the Gaussian by which they fade, in pixels.
    """
    n, size = layers.shape[:2]
    weights = np.exp(-(np.arange(length) ** 2) / (2 * width**2)).astype(np.float32)
    weights /= weights.sum()
    images, rows, columns = np.ogrid[:n, :size, :size]
    result = np.zeros_like(layers)
    for distance, weight in enumerate(weights):
        down = np.rint(distance * np.sin(angle)).astype(int)[:, None, None]
        right = np.rint(distance * np.cos(angle)).astype(int)[:, None, None]
        result += weight * layers[images, (rows + down) % size, (columns + right) % size]
    return result


def _fetch(x: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Interpolate images at other places, mirrored at the border.

    Args:
        x: (n, S, S, 3).
        where: (n, S, S, 2) row and column that each pixel is fetched from.
    """
    size = x.shape[1]
    first = np.floor(where).astype(int)
    share = (where - first).astype(np.float32)
    images = np.arange(len(x))[:, None, None]

    def mirrored(index: np.ndarray) -> np.ndarray:
        index = index % (2 * size)
        return np.where(index < size, index, 2 * size - 1 - index)

    result = np.zeros_like(x)
    for down in (0, 1):
        for right in (0, 1):
            weight = (share[..., 0] if down else 1 - share[..., 0]) * (
                share[..., 1] if right else 1 - share[..., 1]
            )
            rows, columns = mirrored(first[..., 0] + down), mirrored(first[..., 1] + right)
            result += weight[..., None] * x[images, rows, columns]
    return result
