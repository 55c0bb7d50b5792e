"""What runs leave in MLflow, name by name, with its meaning.

A meaning cannot be read off the code. That these tables name exactly what runs leave is asserted by
tests/test_reference.py; `docs.make_reference` puts them into docs/REFERENCE.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Left:
    """Something that runs leave in MLflow.

    Attributes:
        name: as it is logged; `*` stands for any text.
        runs: names of the runs that leave it, `*` as above.
        when: in which of them, in words; "" for all.
    """

    name: str
    runs: tuple[str, ...]
    meaning: str
    when: str = ""


def left(runs: tuple[str, ...], meanings: Mapping[str, str], when: str = "") -> list[Left]:
    """What the same runs leave, by name."""
    return [Left(name, runs, meaning, when) for name, meaning in meanings.items()]


PHASES = ("baseline", "head", "finetune")
TESTED = (*PHASES, "ensemble")
TRAINED = (*PHASES, "trial-*")
SEEDS, TRIAL = ("*-seeds",), ("trial-*",)
OF_DATA = (*TESTED, "data", "suite", *SEEDS, "tune", "compare", "curve")
USES = ("predict", "promote", "route", "abtest", "monitor", "export")
ALL = (*OF_DATA, *TRIAL, "cache", *USES)
# Runs with a logged model called `model`.
MODELS = (*TESTED, "route")

_CACHED = "with `engine: cached`"
_ALL_STORED = "with `engine: cached`, where the store has room for all outputs"
_KNOWN = "where folders are called after classes"
_KEPT = "of the default configuration, and where it was the best so far"
_CALIBRATED = "but for a mean of several models, which is not calibrated again"
_GROUPED = "where `groups` or a list puts pictures into groups"
_CHAMPION = "where there is a champion"
_OUTCOMES = "where both have outcomes"

METRICS: Mapping[str, Sequence[Left]] = {
    "Of each epoch (the step is the epoch, from 0)": [
        *left(
            TRAINED,
            {
                "train/loss": "cross-entropy of the augmented views while the weights move, with "
                "dropout, label smoothing and class weights",
                "train/accuracy": "share of the same that was classified right",
                "val/loss": "cross-entropy of the validation pictures, without smoothing, class "
                "weights or temperature",
                "val/calibrated_loss": "the same without overconfidence: after the temperature "
                "that fits these pictures, where it is above 1; the lowest one chooses the epoch",
                "val/accuracy": "share of the validation pictures classified right",
                "lr/head": "learning rate at the beginning of the epoch, of the head; in "
                "`baseline`, of the whole network",
            },
        ),
        *left(
            ("finetune", *TRIAL),
            {"lr/backbone": "the same of the unfrozen units"},
            "with units to train",
        ),
    ],
    "Of the weights that were kept": [
        *left(
            (*TRAINED, "tune", "ensemble"),
            {
                "val/best_accuracy": "validation accuracy of the kept weights; in `tune`, of the "
                "best trial so far (the step is the number of trials made)"
            },
        ),
        *left(
            (*TRAINED, "tune"),
            {"val/best_calibrated_loss": "`val/calibrated_loss` of the same"},
        ),
        *left(TRAINED, {"val/best_epoch": "which epoch was the best one, from 0"}),
        *left(
            ("finetune", *TRIAL),
            {
                "val/best_interpolation": "how far the kept weights are on the line from those at "
                "the beginning, 0, to those of that epoch, 1"
            },
        ),
        *left(
            TESTED,
            {
                "temperature": "what logits are divided by, fitted on the validation pictures; 1 "
                "where they do not tell it from 1"
            },
            _CALIBRATED,
        ),
    ],
    "Of each point on that line that was tried (the step is the way in percent)": left(
        ("finetune",),
        {
            "interpolation/loss": "`val/calibrated_loss` of its weights; the lowest one is kept",
            "interpolation/accuracy": "share of the validation pictures that they classify right",
        },
        "with `interpolation` above 0",
    ),
    "Of the labels": left(
        ("head",),
        {
            "labels/doubted": "training and validation pictures, of 50,000 at most, that look like "
            "another class than their own"
        },
        _ALL_STORED,
    ),
    "Of the test pictures, read once": [
        *left(
            (*TESTED, "tune"),
            {
                "test/accuracy": "share classified right; in `tune`, these four are those of "
                "`tlkit.best_run`",
                "test/accuracy_low": "lower end of its 95 % interval (Wilson); of pictures in "
                "groups that of so many independent ones as tell as much",
                "test/accuracy_high": "upper end",
                "test/f1": "mean over the classes, weighted by their frequency",
            },
        ),
        *left(
            TESTED,
            {
                "test/groups": "how many groups they fall into; a picture without one stands for "
                "itself"
            },
            _GROUPED,
        ),
        *left(
            TESTED,
            {
                "test/precision": "as `test/f1`",
                "test/recall": "as `test/f1`; weighted so, recall is the accuracy",
                "test/balanced_accuracy": "mean of the recalls of the classes, each counting alike",
                "test/loss": "mean negative log-likelihood in nats, of calibrated probabilities",
                "test/ece": "expected calibration error in 15 bins, 0 to 1, calibrated",
                "test/auroc": "area under the ROC curve; with more than two classes, the mean of "
                "each against the rest, weighted by frequency",
            },
        ),
        *left(
            TESTED,
            {
                "test/loss_uncalibrated": "the loss with temperature 1",
                "test/ece_uncalibrated": "the calibration error with temperature 1",
            },
            _CALIBRATED,
        ),
        *left(
            SEEDS,
            {
                "test/accuracy_mean": "mean of `test/accuracy` over the seeds",
                "test/accuracy_deviation": "its standard deviation",
                "test/accuracy_mean_low": "lower end of the mean's 95 % interval",
                "test/accuracy_mean_high": "upper end",
            },
        ),
        *left(
            ("suite", "curve"),
            {
                "*/test_accuracy": "`test/accuracy` of each phase, by its name; in `curve`, the "
                "step is the number of training pictures"
            },
        ),
    ],
    "Of the heat maps": left(
        TESTED,
        {
            "gradcam/similarity_randomised": "rank correlation of the Grad-CAM maps with those of "
            "random weights, -1 to 1; high means that they do not depend on the weights",
            "gradcam/deletion_gain": "how much less area is under the probability when the "
            "hottest cells are deleted first, than in random order",
            "gradcam/deletion_p_value": "Wilcoxon's one-sided test of that",
            "gradcam/insertion_gain": "how much more area when the hottest are inserted first",
            "gradcam/insertion_p_value": "Wilcoxon's one-sided test of that",
        },
    ),
    "Of the cost": [
        *left(
            TESTED,
            {
                "parameters/trainable": "numbers that training may change; in `ensemble`, 0",
                "parameters/total": "numbers of the network, or of all members",
            },
        ),
        *left(
            TRAINED,
            {
                "time/prefix_seconds": "wall time of finding or computing the outputs of the "
                "frozen part; in `baseline`, the decoded pictures"
            },
        ),
        *left(
            TRAINED,
            {
                "time/train_seconds": "wall time of training and validation; in a trial, with that "
                "of the head that it trained"
            },
        ),
        *left(
            (*TRAINED, "ensemble"),
            {
                "time/total_seconds": "wall time until it is logged, with the training that was "
                "taken over from a trial or an interrupted run"
            },
        ),
        *left(
            TRAINED,
            {
                "features/wanted": "outputs of the frozen part that it trains on",
                "features/hits": "those that were in the store already",
                "features/bytes": "what they take on the disk",
            },
            _CACHED,
        ),
        *left(
            ("head", "finetune"),
            {"features/test_hits": "test pictures whose frozen part's outputs were there already"},
            f"{_CACHED}, where not the whole network trains",
        ),
        *left(
            TRAINED,
            {
                "features/compute_seconds": "seconds to compute an output",
                "features/write_seconds": "seconds to store it",
                "features/read_seconds": "seconds to read it",
            },
            "where so many are computed that it can be measured",
        ),
        *left(
            PHASES,
            {"system/*": "MLflow's own: processor, memory, disk, network"},
            "every 10 seconds",
        ),
    ],
    "Of a search": left(
        ("tune",),
        {
            "trials/complete": "trials that came to their end",
            "trials/pruned": "trials that were stopped as bad",
            "trials/failed": "trials that ended with an error",
            "trials/interrupted": "trials that were stopped from outside",
        },
    ),
    "Of a comparison (`CANDIDATE-REFERENCE` are two runs' names)": left(
        ("compare",),
        {
            "difference/*": "test accuracy, candidate minus reference",
            "difference_low/*": "lower end of its 95 % interval (Newcombe, paired)",
            "difference_high/*": "upper end",
            "p_holm/*": "exact McNemar test, or of pictures in groups their signs flipped, "
            "corrected for the number of pairs after Holm",
        },
    ),
    "Of predictions": [
        *left(
            ("predict",),
            {
                "predict/pictures": "pictures classified",
                "predict/unreadable": "files that are no picture",
                "predict/abstained": "pictures left without a class",
            },
        ),
        *left(
            ("predict",),
            {
                "predict/accuracy": "share classified right",
                "predict/accuracy_low": "as `test/accuracy_low`",
                "predict/accuracy_high": "upper end",
                "predict/balanced_accuracy": "as `test/balanced_accuracy`",
                "predict/precision": "as `test/precision`",
                "predict/recall": "as `test/recall`",
                "predict/f1": "as `test/f1`",
                "predict/loss": "as `test/loss`",
                "predict/seen": "how many of these pictures the model, or one that its run began "
                "from, was trained or validated on; none where the run that left it is not known",
            },
            _KNOWN,
        ),
        *left(
            ("predict",),
            {"predict/groups": "how many groups the pictures of a known class fall into"},
            f"{_KNOWN} and `groups` puts pictures together",
        ),
        *left(
            ("predict",),
            {
                "predict/answered": "share that was given a class",
                "predict/answered_accuracy": "accuracy among those",
            },
            f"{_KNOWN} and `abstain` leaves some open",
        ),
    ],
    "Of a promotion": left(
        ("promote",),
        {
            "promote/difference": "accuracy, candidate minus champion",
            "promote/low": "lower end of its interval (Newcombe, paired), which holds "
            "with `confidence` by itself",
            "promote/high": "upper end, likewise",
            "promote/p_value": "exact McNemar test, or of pictures in groups their signs flipped, "
            "two-sided",
            "promote/groups": "how many groups they fall into; as many as pictures where each "
            "stands for itself",
            "promote/p_better": "the same, one-sided, for a better candidate",
            "promote/only_candidate": "pictures that it alone got right",
            "promote/only_reference": "pictures that the champion alone got right",
            "promote/both": "pictures that both got right",
            "promote/neither": "pictures that neither got right",
            "promote/pictures": "test pictures that both have",
            "promote/left_out": "test pictures that only one of them has",
        },
        _CHAMPION,
    ),
    "Of live traffic": [
        *left(
            ("abtest",),
            {
                "abtest/*_keys": "keys that `champion` or `challenger` served",
                "abtest/*_known": "those with an outcome",
                "abtest/*_successes": "those with a success",
            },
        ),
        *left(
            ("abtest",),
            {
                "abtest/difference": "success rate, challenger minus champion",
                "abtest/low": "lower end of its interval, valid at every look",
                "abtest/high": "upper end",
            },
            _OUTCOMES,
        ),
        *left(
            ("monitor",),
            {
                "drift/alarm": "1 for an alarm, 0 for none",
                "drift/requests": "requests that were looked at",
                "drift/*_psi": "population stability index of `class_mix`, `confidence`, "
                "`brightness`, `contrast`, `embedding_0`, ...",
                "drift/*_p": "p-value of the same, corrected after Holm",
            },
        ),
    ],
    "Of an export": left(
        ("export",),
        {
            "export/difference": "largest difference of a probability from PyTorch",
            "export/pictures": "pictures that it was checked on",
        },
    ),
}

TAGS: Sequence[Left] = [
    *left(
        ALL,
        {
            "tlkit.phase": "name of the run; of a trial, `trial`",
            "mlflow.note.content": "the description on top of the run in MLflow's UI",
        },
    ),
    *left(
        TRAINED,
        {"mlflow.parentRunId": "the run that this one is a child of"},
        "where another one began it",
    ),
    *left(
        OF_DATA,
        {
            "tlkit.data_digest": "digest of the manifest, equal for the same data; MLflow's "
            "data set of the run has the same"
        },
    ),
    *left(
        PHASES,
        {"tlkit.settings": "hash over all that a head depends on besides the data"},
    ),
    *left(
        PHASES,
        {"features/decision": "`store`, or why outputs are computed again whenever they are used"},
        _CACHED,
    ),
    *left(
        ("head", "finetune"),
        {"features/test_decision": "the same of the outputs for the test pictures"},
        f"{_CACHED}, where not the whole network trains",
    ),
    *left(
        PHASES,
        {
            "tlkit.went_on_from": "id of the run of the same training that it went on from, which "
            "was interrupted, or whose suite was"
        },
        when="where there was one",
    ),
    *left(
        ("finetune",),
        {
            "tlkit.init_from": "id of the run whose weights it began from: a `head`, or the trial "
            "that trained the head too"
        },
    ),
    *left(
        TRIAL,
        {
            "tlkit.trial": "its number in the study",
            "tlkit.trial_state": "running, complete, pruned, failed or interrupted",
        },
    ),
    *left(
        TRIAL,
        {
            "tlkit.repeats": "the trial whose configuration it has, and whose metrics, for it is "
            "not trained again"
        },
        "where there is one",
    ),
    *left(
        TRIAL,
        {
            "tlkit.trained_by": "engine, device, number format, threads, compiling and torch that "
            "`trained` was computed by"
        },
        _KEPT,
    ),
    *left(
        ("finetune",),
        {"tlkit.trial": "the trial whose configuration it has"},
        "below `tune`",
    ),
    *left(
        ("tune",),
        {
            "tlkit.best.*": "value of each searched key in the best trial",
            "tlkit.best_trial": "its number",
            "tlkit.best_run": "id of the `finetune` run of its configuration",
        },
    ),
    *left(("compare",), {"tlkit.compared": "ids of the runs, with commas between them"}),
    *left(
        ("ensemble",),
        {"tlkit.in_soup": "ids of the runs whose weights are in it"},
        "with `average: weights`",
    ),
    *left(
        ("predict", "export", "monitor", "route", "ensemble"),
        {
            "tlkit.model": "the models that it used, by addresses that go on to mean them, such "
            "as `models:/m-ID`; those that MLflow has are inputs of the run too"
        },
    ),
    *left(
        ("promote",),
        {"tlkit.model": "the candidate, likewise"},
        "where a candidate was judged",
    ),
    *left(
        ("promote",),
        {"tlkit.verdict": "champion, challenger or refused"},
        "where a candidate was judged",
    ),
    *left(("abtest",), {"tlkit.winner": "champion, challenger or none yet"}),
]

ARTIFACTS: Mapping[str, Sequence[Left]] = {
    "Of the data and the configuration": [
        *left(
            (*TESTED, "data"),
            {
                "config.yaml": "every key as it was given or is by default; `-P config=` reads it",
                "data/manifest.csv": "path, label, split and sha256 of every picture, "
                "and its group where there are groups",
            },
        ),
        *left(
            (*PHASES, "data"),
            {
                "data/audit.json": "what was unreadable, damaged, copied, alike or put into two "
                "classes, and which groups are in two splits",
                "data/samples.png": "some pictures, before and after augmentation",
                "environment.json": "Python, platform, device or card, number format, threads, "
                "versions of packages, git commit",
            },
        ),
    ],
    "Of the labels": left(
        ("head",),
        {
            "label_check.csv": "path, split, label, the class that the picture looks like, and by "
            "how much more: the doubtful labels of training and validation pictures, the most "
            "doubtful first",
            "label_check.png": "up to 25 of them, with their pictures",
        },
        _ALL_STORED,
    ),
    "Of training": left(
        PHASES,
        {
            "history.json": "the metrics of each epoch",
            "curves.png": "the same as curves",
            "checkpoints/*.safetensors": "`best` and `last` epoch: all that training may change",
            "checkpoints/*.json": "what the checkpoint is of: phase, backbone, weights, classes, "
            "image size, epoch, metrics; `result.json`: how the whole training went",
        },
    ),
    "Of the test pictures": left(
        TESTED,
        {
            "predictions.csv": "path, label, predicted class, a probability for each class",
            "classification_report.json": "precision, recall and F1 of each class",
            "confusion_matrix.json": "counts; rows are true classes, columns predicted ones",
            "confusion_matrix.png": "the same as a figure",
            "calibration.json": "the temperature, and what abstaining costs and gains, on the "
            "validation pictures (to choose by) and on the test pictures",
            "calibration.png": "reliability before and after the temperature, and abstaining",
            "mistakes.png": "the most confident mistakes, up to 24",
            "gradcam.png": "pictures with the evidence for the predicted class, up to 12",
            "gradcam/*.png": "the overlays one by one",
            "gradcam_check.json": "whether these heat maps are to be trusted, in numbers",
            "gradcam_check.png": "the same as a figure",
        },
    ),
    "Of a search": [
        *left(
            ("tune",),
            {
                "best.yaml": "configuration of the best trial; `-P config=` reads it",
                "trials.csv": "number, state, keys, loss, accuracy, seconds, epochs, error of "
                "each, of a pruned one the objective where it stopped, and the interrupted trial "
                "in whose place it is; with a `second_objective` its value, and whether the trial "
                "is on the front",
                "optimization_history.png": "the value of each complete trial, and the best so far",
                "slice.png": "the value of each complete trial over each key",
                "parallel_coordinate.png": "a line for each complete trial, through the values of "
                "its keys",
                "intermediate_values.png": "what each trial would score if it ended after an epoch",
                "timeline.png": "when each trial ran, and how it ended",
            },
        ),
        *left(
            TRIAL,
            {
                "trained/*": "checkpoints and `result.json` of its head, where it trained one, and "
                "its finetune, for the `finetune` run of its configuration"
            },
            _KEPT,
        ),
        *left(
            ("tune",),
            {"param_importances.png": "how much it takes of each key to be among the best"},
            "where trials differ in a key",
        ),
        *left(
            ("tune",),
            {"pareto_front.png": "trials by both objectives"},
            "with a `second_objective`, in place of `intermediate_values.png`",
        ),
    ],
    "Of several runs": [
        *left(
            ("compare",),
            {
                "report.html": "all of it on one page, which needs no network",
                "comparison.json": "the verdict, the runs with their costs, the machine that the "
                "seconds for one picture were measured on, and every pair",
                "pictures.csv": "which test pictures each run got right",
            },
        ),
        *left(
            ("curve",),
            {
                "curve.png": "accuracy against training pictures, with intervals",
                "curve.csv": "phase, pictures, accuracy, ends of the interval; of what it "
                "is, the description says",
            },
        ),
    ],
    "Of the use of a model": [
        *left(
            ("predict",),
            {
                "predictions.csv": "path, predicted class, a probability for each class",
                "predictions.json": "the same, with an `error` for what is no picture",
                "unreadable.csv": "path and reason of what is no picture",
            },
        ),
        *left(("predict",), {"confusion_matrix.png": "true and predicted classes"}, _KNOWN),
        *left(
            ("predict",),
            {
                "gradcam.png": "the first pictures of the classes that were named, 24 at most",
                "gradcam/*.png": "an overlay for each picture",
            },
            "with `gradcam: true`",
        ),
        *left(("promote",), {"comparison.json": "both versions and the metrics"}, _CHAMPION),
        *left(
            ("abtest",),
            {
                "abtest.json": "the counts of both models, how many outcomes are of keys that the "
                "log does not have, and the test"
            },
        ),
        *left(
            ("monitor",),
            {
                "drift.json": "when the first and the last of the requests came; PSI, statistic, "
                "p-values and alarm of each quantity",
                "drift.png": "the requests beside the validation pictures",
            },
        ),
        *left(
            ("export",),
            {
                "model.onnx": "normalised pictures to calibrated probabilities",
                "model.json": "classes and preprocessing",
            },
        ),
    ],
}

REGISTRY: Mapping[str, str] = {
    "tlkit.champions": "of the name: the versions that were champion, the present one last",
    "tlkit.verdict": "of a version: champion, challenger, refused or rolled back",
    "tlkit.reason": "of a version: why, in a sentence",
}

EXIT_CODES: Mapping[int, str] = {
    0: "it is done",
    1: "an error of ours, with its traceback; of `monitor`, an alarm",
    2: "a mistake that the user can put right, or a tracking store that fails: one line, "
    "`error: ...`, on standard error",
    3: "of `monitor`, an error of ours, with its traceback",
    130: "interrupted by Ctrl-C",
    143: "ended by SIGTERM, as containers and schedulers send it",
}

VARIABLES: Mapping[str, str] = {
    "TLKIT_CACHE": "folder for downloads, unpacked archives, drawn pictures, stored outputs "
    "and what audits saw; unset: the user's cache folder",
    "TLKIT_REQUEST_LOG": "where a served model logs what it is asked, `sqlite:///FILE`, "
    "`postgresql+psycopg://USER@HOST/NAME` or `parquet:///FOLDER`; `none`: nowhere; "
    "unset: nowhere, and a router to `requests.db` in its folder",
    "TLKIT_LOG_PICTURES": "`1`: it logs the pictures too",
    "MLFLOW_DISABLE_TELEMETRY": "set to 1 in tlkit's own processes where it is unset: MLflow tells "
    "nobody of its use; `mlflow run` and `mlflow ui` are MLflow's, so set it yourself for them",
    "ORT_DISABLE_TELEMETRY": "the same for ONNX Runtime",
    "MLFLOW_RUN_ID": "set by `mlflow run`: the run that it began, which becomes ours",
    "CUBLAS_WORKSPACE_CONFIG": "set to `:4096:8` on a GPU where it is unset, so that matrix "
    "products repeat themselves there",
}
