"""From a picture to what a network takes: plain for evaluation, or one of its views."""

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import rgb_to_grayscale

Step = Callable[[Any], Any]

# Of what the augmentations make of a picture; to be raised when that changes under the same name.
AUGMENTATION_REVISION = 3

# What a rotation brings in where the picture ends.
_GREY = 0.5

# The number of contrast among torchvision's colour changes.
_CONTRAST = 1

_generator = threading.Lock()


@dataclass(frozen=True)
class Preprocessing:
    """The backbone's own preprocessing, as timm defines it.

    Attributes:
        config: JSON-able keyword arguments of `timm.data.create_transform`: input_size (3, H, W),
            interpolation, mean, std, crop_pct, crop_mode.
    """

    config: dict[str, Any]

    @cached_property
    def _steps(self) -> tuple[Step, Step, Step]:
        """Resize; crop; to a normalised tensor."""
        config = dict(self.config, input_size=tuple(self.config["input_size"]))
        steps = list(create_transform(**config, is_training=False).transforms)
        # timm's list: what works on the picture, then to-tensor, then normalise.
        resize, *crop, to_tensor, normalise = steps
        return resize, v2.Compose(crop) if crop else _same, v2.Compose([to_tensor, normalise])

    def picture(self, picture: Image.Image) -> Image.Image:
        """An RGB picture resized and cropped as the network sees it, before normalisation."""
        return self.crop(self.resize(picture))

    def __call__(self, picture: Image.Image) -> Tensor:
        """An RGB picture to a float32 tensor (3, H, W), normalised."""
        return self.tensor(self.picture(picture))

    def tensor(self, picture: Image.Image) -> Tensor:
        """A picture of the right size to a float32 tensor (3, H, W), normalised."""
        result: Tensor = self._steps[2](picture)
        return result

    def from_bytes(self, pixels: Tensor) -> Tensor:
        """Pictures as bytes, uint8 (N, 3, H, W), normalised: float32, with the bits of `tensor`, in
        the memory format of the pictures."""
        mean, std = self._moments
        if pixels.stride(1) != 1:
            return pixels.float().div_(255).sub_(mean).div_(std)
        # By rows of whole pixels: broadcasting over the three colours of each is five times slower.
        _, colours, height, width = pixels.shape
        rows = pixels.permute(0, 2, 3, 1).flatten(2).float()
        rows.div_(255).sub_(mean.flatten().repeat(width)).div_(std.flatten().repeat(width))
        return rows.view(-1, height, width, colours).permute(0, 3, 1, 2)

    def to_bytes(self, tensors: Tensor) -> Tensor:
        """What `from_bytes` or `tensor` gave, (N, 3, H, W), back to the bytes of the pictures."""
        mean, std = self._moments
        return tensors.mul(std).add_(mean).mul_(255).round_().to(torch.uint8)

    @property
    def _moments(self) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(self.config[name]).view(3, 1, 1) for name in ("mean", "std"))
        return mean, std

    def resize(self, picture: Image.Image) -> Image.Image:
        """An RGB picture resized, not yet cropped."""
        result: Image.Image = self._steps[0](picture)
        return result

    def crop(self, picture: Image.Image) -> Image.Image:
        """What `resize` gave, cropped as the network sees it."""
        result: Image.Image = self._steps[1](picture)
        return result


@dataclass(frozen=True)
class Views:
    """The augmented renditions of a picture.

    View v of a picture is a pure function of (seed, v, the picture's content): neither the order
    of batches, nor the number of workers, nor a restart changes it.

    Attributes:
        preprocessing: of the network.
        augment: "none", "recipe" (horizontal flip, rotation of up to 10 degrees, brightness,
            contrast and saturation by up to 10 %) or "trivial" (flip and TrivialAugment, Müller
            and Hutter 2021).
        seed: of the run.
    """

    preprocessing: Preprocessing
    augment: str
    seed: int

    def pictures(
        self, picture: Image.Image, sha256: str, views: Sequence[int | None]
    ) -> Iterator[Image.Image]:
        """These views, None for the plain one, of an RGB picture whose content has the hash
        `sha256`; it is resized once."""
        resized = self.preprocessing.resize(picture)
        prepare, render = self._steps
        prepared = prepare(resized) if any(view is not None for view in views) else None
        for view in views:
            if view is None:
                yield self.preprocessing.crop(resized)
                continue
            # A served model renders in several threads, and they share the generator.
            with _generator, torch.random.fork_rng(devices=[]):
                # The default generator alone: seeding CUDA from a loader's worker would start it.
                torch.default_generator.manual_seed(_view_seed(self.seed, view, sha256))
                rendered = render(prepared)
            yield rendered

    @cached_property
    def _steps(self) -> tuple[Step, Step]:
        return _AUGMENTATIONS[self.augment](self.preprocessing)

    def picture(self, picture: Image.Image, sha256: str, view: int | None) -> Image.Image:
        """One of `pictures`."""
        [result] = self.pictures(picture, sha256, [view])
        return result

    def __call__(self, picture: Image.Image, sha256: str, view: int | None) -> Tensor:
        """As `picture`, to a float32 tensor (3, H, W), normalised."""
        return self.preprocessing.tensor(self.picture(picture, sha256, view))


def _view_seed(seed: int, view: int, sha256: str) -> int:
    digest = hashlib.sha256(f"{seed} {view} {sha256}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch takes 63 bits


def _same(picture: Any) -> Any:
    return picture


class _RotatedCentre(v2.RandomRotation):  # type: ignore[misc]
    """Pixels, float32 (C, H, W) in [0, 1], rotated about their centre, and of that the centre
    alone, of `size` (height, width) at most: the rest would be cropped away.

    What it brings in are pixels around the centre, and grey where the picture ends.
    """

    def __init__(self, degrees: float, size: tuple[int, int]) -> None:
        super().__init__(degrees)
        self.size = size

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        _, height, width = inpt.shape
        across = _from_the_centre(width, self.size[1])
        down = _from_the_centre(height, self.size[0])[:, None]
        radians = math.radians(params["angle"])
        cos, sin = math.cos(radians), math.sin(radians)
        # For each pixel of the result its place in the picture, whose edges are at -1 and 1.
        places = torch.empty(1, len(down), len(across), 2)
        torch.sub(across * (cos * 2 / width), down * (sin * 2 / width), out=places[0, :, :, 0])
        torch.add(across * (sin * 2 / height), down * (cos * 2 / height), out=places[0, :, :, 1])
        # It has zeros for what lies outside.
        rotated = F.grid_sample(inpt[None] - _GREY, places, align_corners=False)
        return rotated[0].add_(_GREY)


def _from_the_centre(whole: int, size: int) -> Tensor:
    """How far the middles of the pixels of a centre crop are from the centre of the whole, along an
    axis; as torchvision's centre crop rounds."""
    size = min(size, whole)
    return torch.arange(size) + (round((whole - size) / 2) + 0.5 - whole / 2)


class _Colours(v2.ColorJitter):  # type: ignore[misc]
    """torchvision's, of float32 (3, H, W) in [0, 1], with a contrast whose bits do not depend on
    the number of torch's threads, as the mean over a whole picture does."""

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        for step in params["fn_idx"]:
            if step == _CONTRAST:
                # A row's mean is one thread's work.
                mean = rgb_to_grayscale(inpt).mean(-1).mean()
                inpt = (mean + (inpt - mean) * params["contrast_factor"]).clamp_(0, 1)
            else:
                inpt = super().transform(inpt, {**params, "fn_idx": [step]})
        return inpt


def _recipe(preprocessing: Preprocessing) -> tuple[Step, Step]:
    _, height, width = preprocessing.config["input_size"]
    # In float32, which is faster than Pillow's bytes and rounds once.
    prepare = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    render = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            _RotatedCentre(10, (height, width)),
            _Colours(brightness=0.1, contrast=0.1, saturation=0.1),
            _to_picture,
            preprocessing.crop,  # pads, for some networks
        ]
    )
    return prepare, render


def _to_picture(pixels: Tensor) -> Image.Image:
    """Float32 (3, H, W) in [0, 1] to an RGB picture."""
    colours = (pixels * 255).round_().to(torch.uint8)
    return Image.merge("RGB", [Image.fromarray(colour.numpy()) for colour in colours])


def _trivial(preprocessing: Preprocessing) -> tuple[Step, Step]:
    # Cropped last, so that what it moves brings in real pixels.
    render = v2.Compose(
        [v2.RandomHorizontalFlip(), v2.TrivialAugmentWide(fill=128), preprocessing.crop]
    )
    return _same, render


# By name: what is done once to a resized picture, and what then makes each view of it.
_AUGMENTATIONS: dict[str, Callable[[Preprocessing], tuple[Step, Step]]] = {
    "none": lambda preprocessing: (_same, preprocessing.crop),
    "recipe": _recipe,
    "trivial": _trivial,
}
