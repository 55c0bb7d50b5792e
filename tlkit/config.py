"""Every hyperparameter: its default, its meaning, its check. Nothing else reads a configuration."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tlkit.keys import (
    Settings,
    about,
    at_least,
    auto_or,
    choice,
    is_pattern,
    key,
    positive,
    positive_share,
    registered,
    share,
)

_LAST_SEED = 2**31 - 1

_SEARCH = {
    "unfreeze_depth": {"low": 0, "high": "all"},
    "head_lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "backbone_lr": {"low": 1e-6, "high": 1e-3, "log": True},
    "weight_decay": {"low": 1e-6, "high": 1e-1, "log": True},
    "dropout": {"low": 0.0, "high": 0.5},
}


def _numbers(text: str) -> list[float]:
    """What stands between commas; not a number where it is none."""
    found = []
    for word in text.split(","):
        try:
            found.append(float(word))
        except ValueError:
            found.append(math.nan)
    return found


@dataclass(frozen=True)
class Config(Settings):
    """Every key of `experiments/configs/*.yaml`, each also a `-P key=value` of `mlflow run`."""

    interrupted: ClassVar[str] = "interrupted; the same command goes on with what it trained"

    # Data
    data: str = key(
        "synthetic",
        "synthetic, a folder, a zip or tar, a list (.csv), torchvision:NAME or kaggle:NAME",
        "a source of pictures",
        lambda value: value != "",
    )
    val_fraction: float = positive_share(
        0.15, "share of the pictures for validation where none is given"
    )
    test_fraction: float = positive_share(
        0.15, "share of the pictures for the test where none is given"
    )
    groups: str = key(
        "auto",
        "what pictures belong together, as those of one patient or film: folder: the first one "
        "below that of the class; or a regular expression whose first group, or whole match, in a "
        "path names it; auto: the column group of a list; none",
        "auto, none, folder or a regular expression",
        is_pattern,
    )
    train_fraction: float = key(
        1.0,
        "share of the training pictures, drawn class by class; each is shown more often, so that "
        "an epoch keeps about its length",
        "above 0, to 1",
        lambda value: 0 < value <= 1,
    )
    fractions: str = key(
        "0.05, 0.1, 0.25, 0.5, 1",
        "shares of the training pictures that curve trains on",
        "numbers above 0, to 1, with commas between them",
        lambda value: all(0 < share <= 1 for share in _numbers(value)),
    )
    max_pixels: int = at_least(100_000_000, 1, "pixels a picture may decode to; more: quarantine")
    image_size: int | str = auto_or("auto", 16, "side in pixels; auto: the backbone's own", 4096)
    baseline_image_size: int = key(
        64, "side in pixels for the baseline", "from 16 to 4096", lambda value: 16 <= value <= 4096
    )
    augment: str = choice(
        "recipe",
        "recipe: flip, rotation by 10 degrees, colour jitter of 10 %; trivial: TrivialAugment",
        "none",
        "recipe",
        "trivial",
    )
    views: int = at_least(2, 1, "augmented renditions of a picture; epoch e trains on e mod views")
    loader_workers: int | str = auto_or(
        "auto", 0, "processes that decode; auto: one a core, to 8", 1024
    )

    # Model
    backbone: str = key(
        "tf_efficientnet_lite0",
        "any timm model name",
        "a timm model name",
        lambda value: value != "",
    )
    weights: str = key(
        "auto",
        "auto: the packaged ones or timm's hub; none: random; or a .safetensors or .pth file",
        "auto, none or a file",
        lambda value: value != "",
    )
    dropout: float = share(0.2, "dropout before the classifier")
    unfreeze_depth: int = at_least(4, 0, "units (blocks) from the top that finetune trains")
    batch_norm: str = choice(
        "still",
        "statistics of the unfrozen batch norms in finetune: still: those of the weights it began "
        "with; moving: those of each batch",
        "still",
        "moving",
    )
    init_from: str = key(
        "auto",
        "run id of the head that finetune begins from; auto: the newest that fits, or a new one",
        "auto or a run id",
        lambda value: value != "",
    )

    # Training
    baseline_epochs: int = at_least(20, 1, "passes over the training pictures in baseline")
    head_epochs: int = at_least(40, 1, "passes in head; cheap, for the backbone runs only once")
    finetune_epochs: int = at_least(5, 1, "passes in finetune")
    baseline_lr: float = positive(1e-3, "AdamW step size of the baseline CNN")
    head_lr: float = positive(1e-3, "AdamW step size of the head, in head and in finetune")
    backbone_lr: float = positive(3e-4, "AdamW step size of the unfrozen units in finetune")
    weight_decay: float = at_least(
        1e-4, 0, "AdamW decay; none on weights of one dimension, as those of norms, and on biases"
    )
    label_smoothing: float = share(0.0, "probability spread evenly over all classes")
    class_weights: str = choice(
        "none", "balanced: a class counts in inverse to its size", "none", "balanced"
    )
    batch_size: int = at_least(32, 1, "pictures a step")
    accumulate: int = at_least(
        1,
        1,
        "batches whose gradients make one step; the baseline's batch norms still see one at a time",
    )
    baseline_schedule: str = choice("cosine", "schedule of the baseline", "plateau", "cosine")
    head_schedule: str = choice(
        "plateau",
        "schedule of head: plateau: rates halved after 3 epochs without a "
        "val/calibrated_loss lower by a ten-thousandth; cosine: a warm-up and half a cosine down "
        "to 0, all epochs",
        "plateau",
        "cosine",
    )
    finetune_schedule: str = choice("cosine", "schedule of finetune", "plateau", "cosine")
    interpolation: int = key(
        4,
        "equal steps on the line from the weights that finetune begins with to those of its best "
        "epoch; of the points between them, both ends included, the one with the lowest "
        "val/calibrated_loss is kept; 0: the best epoch",
        "from 0 to 100",
        lambda value: 0 <= value <= 100,
    )
    warmup_epochs: float = at_least(
        1.0, 0, "epochs of linear warm-up under cosine, at most half of all"
    )
    early_stopping: int = at_least(
        8, 0, "epochs without a better val/calibrated_loss before a stop under plateau; 0: never"
    )

    # Search
    trials: int = at_least(20, 1, "trials that tune makes, those of earlier commands included")
    timeout: float = at_least(0, 0, "seconds after which tune starts no trial; 0: no limit")
    objective: str = choice(
        "loss",
        "what tune improves on the validation pictures: val/calibrated_loss of the weights that "
        "are kept, or their accuracy",
        "loss",
        "accuracy",
    )
    second_objective: str = choice(
        "none",
        "what tune lowers besides: seconds of training, without what is computed once for all "
        "trials; or latency, seconds for one picture, where backbone or image_size is searched; "
        "gives a Pareto front, and nothing is pruned",
        "none",
        "seconds",
        "latency",
    )
    pruner: str = choice(
        "median",
        "how tune tells a bad trial: median after any epoch but the last, hyperband after 2 at the "
        "earliest, so never with finetune_epochs of 1 or 2",
        "median",
        "hyperband",
        "none",
    )
    workers: int = at_least(1, 1, "processes that train trials; they share the cores")
    study: str = key(
        "auto",
        "name of the study that trials are kept in; auto: one for each data set, space and recipe",
        "auto or a name",
        lambda value: value != "",
    )
    storage: str = key(
        "auto",
        "address of Optuna's database: sqlite:///FILE, postgresql://... or mysql://...; "
        "auto: optuna.db beside MLflow's database",
        "auto or an address",
        lambda value: value != "",
    )
    register: str = registered("name in the model registry that tune gives the best model")
    search: dict[str, Any] = field(
        default_factory=lambda: copy.deepcopy(_SEARCH),
        metadata=about(
            "what tune searches: a key of this file and its range (low, high, log, step), or a "
            "list of values; all: the units that the backbone has",
            "a mapping of keys to ranges or lists",
            lambda value: len(value) > 0,
        ),
    )

    # Machine
    engine: str = choice(
        "cached",
        "cached: the frozen part runs once a picture and view, for all runs; plain: in every "
        "epoch, the whole network in float32, as a script would",
        "cached",
        "plain",
    )
    store_gigabytes: int | str = auto_or(
        "auto",
        0,
        "what the stored outputs of frozen parts may take, the oldest go first; "
        "auto: half of (free disk + what is stored already)",
    )
    clear: str = choice("no", "yes: the entry point cache deletes what is stored", "no", "yes")
    device: str = choice(
        "auto", "auto: cuda where there is one that torch has code for", "auto", "cpu", "cuda"
    )
    precision: str = choice(
        "auto", "auto: bf16 where the hardware has it, else fp32", "auto", "fp32", "bf16"
    )
    compile: str = choice(
        "auto",
        "compile the frozen part; auto: where there are pictures enough to pay for it",
        "auto",
        "on",
        "off",
    )
    threads: int | str = auto_or(
        "auto", 1, "threads of torch; the same number gives the same bits", 1024
    )
    seed: int = key(
        0, "of the batches, the dropout and the weights", "from 0 to 2**31 - 1",
        lambda value: 0 <= value <= _LAST_SEED,
    )  # fmt: skip
    data_seed: int | str = auto_or(
        "auto",
        0,
        "of the split, the share that train_fraction leaves, the drawn pictures and the views; "
        "auto: as seed",
    )
    seeds: int = at_least(
        1, 1, "how often a phase is trained, with seed, seed + 1, ... on the same pictures"
    )

    @property
    def fractions_in_order(self) -> list[float]:
        """`fractions`, rising, each once."""
        return sorted(set(_numbers(self.fractions)))

    @property
    def pictures_seed(self) -> int:
        """`data_seed`, or what it stands for."""
        return self.seed if self.data_seed == "auto" else int(self.data_seed)

    def contradictions(self) -> list[str]:
        faults = []
        if self.seed + self.seeds - 1 > _LAST_SEED:
            faults.append(
                f"seed={self.seed} and seeds={self.seeds}: the last seed would be "
                f"{self.seed + self.seeds - 1}, above {_LAST_SEED}; lower seed, or seeds to "
                f"{_LAST_SEED - self.seed + 1}"
            )
        if self.val_fraction + self.test_fraction >= 1:
            faults.append(
                f"val_fraction={self.val_fraction} and test_fraction={self.test_fraction} leave "
                "nothing to train on; their sum must be below 1"
            )
        if self.engine == "plain" and self.precision == "bf16":
            faults.append(
                "engine=plain and precision=bf16: plain is the loop in float32; engine=cached "
                "wanted, or precision=auto"
            )
        if self.batch_norm == "moving" and self.batch_size == 1:
            faults.append(
                "batch_norm=moving and batch_size=1: one picture has no statistics; a batch_size "
                "of at least 2 wanted, or batch_norm=still"
            )
        return faults
