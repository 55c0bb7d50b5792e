"""A sheet of sample pictures: what the network is shown, before and after augmentation."""

from collections.abc import Callable

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL.Image import Image

from tlkit.data.images import read_picture
from tlkit.data.manifest import Manifest, Picture

MAX_CLASSES = 10
VIEWS = 2


def samples_sheet(
    manifest: Manifest,
    plain: Callable[[Image], Image],
    augmented: Callable[[Image, str, int], Image],
    max_pixels: int,
    per_class: int = 3,
) -> Figure:
    """Training pictures, a row a class: each one plain, then as its first views.

    Args:
        plain: renders an RGB picture as for evaluation.
        augmented: renders view `v` of an RGB picture from its content hash and `v`.
        max_pixels: what the audit let pass.
        per_class: pictures a row, taken at even steps through the class.
    """
    shown = manifest.classes[:MAX_CLASSES]
    columns = per_class * (1 + VIEWS)
    figure = Figure(figsize=(1.35 * columns + 1, 1.4 * len(shown) + 1.1), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for row, name in zip(axes, shown, strict=True):
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_frame_on(False)
        row[0].set_ylabel(_short(name), rotation=0, ha="right", va="center", parse_math=False)
        for number, picture in enumerate(_spread(manifest, name, per_class)):
            image = read_picture(manifest.root / picture.path, max_pixels)
            renditions = [plain(image)]
            renditions += [augmented(image, picture.sha256, view) for view in range(VIEWS)]
            for offset, rendition in enumerate(renditions):
                row[number * (1 + VIEWS) + offset].imshow(rendition)
    for column in range(columns):
        view = column % (1 + VIEWS)
        axes[0][column].set_title("plain" if view == 0 else f"view {view - 1}", fontsize=9)
    hidden = len(manifest.classes) - len(shown)
    figure.suptitle(
        "Training pictures as the network sees them"
        + (f" (the first {len(shown)} of {len(manifest.classes)} classes)" if hidden else "")
    )
    figure.tight_layout()
    return figure


def _spread(manifest: Manifest, name: str, count: int) -> list[Picture]:
    label = manifest.classes.index(name)
    members = [picture for picture in manifest.of("train") if picture.label == label]
    step = max(1, len(members) // count)
    return members[::step][:count]


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:8]}…{name[-7:]}"
