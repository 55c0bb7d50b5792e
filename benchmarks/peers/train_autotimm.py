"""AutoTimm: a frozen backbone, then all of it at a small rate. Run in AutoTimm's environment.

Arguments: DATA WEIGHTS BACKBONE HEAD_EPOCHS FINETUNE_EPOCHS BATCH_SIZE SIZE
"""

import json
import os
import sys
import time

import torch
from autotimm import AutoTrainer, BackboneConfig, ImageClassifier, ImageDataModule, MetricConfig


def main() -> None:
    data, weights, backbone, head, finetune, batch, size = sys.argv[1:]
    pictures = ImageDataModule(
        data, image_size=int(size), batch_size=int(batch),
        num_workers=min(8, os.cpu_count() or 1), pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    pictures.setup("fit")
    config = BackboneConfig(backbone, extra_kwargs={"pretrained_cfg_overlay": {"file": weights}})
    accuracy = MetricConfig(
        "accuracy", "torchmetrics", "Accuracy", {"task": "multiclass"}, ["test"]
    )
    started = time.perf_counter()

    def classifier(frozen: bool, rate: float) -> ImageClassifier:
        return ImageClassifier(
            config,
            pictures.num_classes,
            metrics=[accuracy],
            lr=rate,
            freeze_backbone=frozen,
            compile_model=False,
            seed=0,
        )

    def trainer(epochs: int) -> AutoTrainer:
        return AutoTrainer(
            epochs, checkpoint_monitor=None, enable_checkpointing=False, tuner_config=False,
            enable_progress_bar=False,
        )  # fmt: skip

    first = classifier(True, 1e-3)
    trainer(int(head)).fit(first, datamodule=pictures)
    second = classifier(False, 1e-4)
    second.load_state_dict(first.state_dict())
    last = trainer(int(finetune))
    last.fit(second, datamodule=pictures)
    seconds = time.perf_counter() - started
    [result] = last.test(second, datamodule=pictures, verbose=False)
    print(json.dumps({"seconds": seconds, "accuracy": result["test/accuracy"]}))


if __name__ == "__main__":
    main()
