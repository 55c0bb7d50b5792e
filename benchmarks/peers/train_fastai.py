"""fastai as its quick start has it: `vision_learner` and `fine_tune`. Run in fastai's environment.

Arguments: DATA WEIGHTS BACKBONE HEAD_EPOCHS FINETUNE_EPOCHS BATCH_SIZE SIZE
"""

import json
import os
import sys
import time

from fastai.vision.all import (
    ImageDataLoaders,
    Resize,
    accuracy,
    get_image_files,
    set_seed,
    vision_learner,
)


def main() -> None:
    data, weights, backbone, head, finetune, batch, size = sys.argv[1:]
    set_seed(0, reproducible=True)
    loaders = ImageDataLoaders.from_folder(
        data,
        train="train",
        valid="val",
        item_tfms=Resize(int(size)),
        bs=int(batch),
        num_workers=min(8, os.cpu_count() or 1),
    )
    started = time.perf_counter()
    learner = vision_learner(
        loaders, backbone, metrics=accuracy, pretrained_cfg_overlay={"file": weights}
    )
    with learner.no_bar():
        learner.fine_tune(int(finetune), freeze_epochs=int(head))
    seconds = time.perf_counter() - started
    with learner.no_bar():
        test = loaders.test_dl(get_image_files(f"{data}/test"), with_labels=True)
        _, right = learner.validate(dl=test)
    print(json.dumps({"seconds": seconds, "accuracy": right}))


if __name__ == "__main__":
    main()
