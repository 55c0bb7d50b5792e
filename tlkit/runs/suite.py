"""Several phases, or one with several seeds, under one run."""

from contextlib import ExitStack
from dataclasses import replace

from tlkit.config import Config
from tlkit.errors import UserError
from tlkit.phases.network import refuse_network
from tlkit.phases.prepare import PHASES
from tlkit.runs.phase import run_phase
from tlkit.runs.prepare import log_dataset, prepare_data
from tlkit.summary import (
    PhaseResult,
    markdown_table,
    of_data,
    of_repeats,
)
from tlkit.tracking.lookup import find_run
from tlkit.tracking.run import start_run
from tlkit.tracking.tags import INIT_TAG


def run_suite(config: Config) -> list[PhaseResult]:
    """Baseline, head and finetune as children of one run called `suite`."""
    refuse_seeds(config)
    results: list[PhaseResult] = []
    with ExitStack() as until, start_run("suite") as tracker:
        tracker.params(config.as_dict())
        refuse_network("finetune", config)
        data = prepare_data(config)
        log_dataset(tracker, config, data)
        for phase in PHASES:
            if phase == "finetune":
                config = replace(config, init_from=results[-1].run_id)
            results.append(run_phase(phase, config, data=data, parent=tracker.run_id, until=until))
        for result in results:
            tracker.metrics({f"{result.phase}/test_accuracy": result.metrics["test/accuracy"]})
        tracker.describe(f"{of_data(config, data.manifest)}\n\n{markdown_table(results)}")
    return results


def run_repeats(phase: str, config: Config) -> list[PhaseResult]:
    """One phase with `seeds` seeds on the same pictures, as children of one run where it is not 1.

    Each finetune begins from the same head; where the backbone is random, and so another one for
    each seed, from one of its own. Raises as `run_phase`.
    """
    if config.seeds == 1:
        return [run_phase(phase, config)]
    with ExitStack() as until, start_run(f"{phase}-seeds") as tracker:
        tracker.params(config.as_dict())
        refuse_network(phase, config)
        data = prepare_data(config)
        log_dataset(tracker, config, data)
        base = replace(config, seeds=1, data_seed=config.pictures_seed)
        results: list[PhaseResult] = []
        for seed in range(config.seed, config.seed + config.seeds):
            one = replace(base, seed=seed)
            result = run_phase(phase, one, data=data, parent=tracker.run_id, until=until)
            shared = phase == "finetune" and config.weights != "none"
            if shared:
                base = replace(base, init_from=find_run(result.run_id).tags[INIT_TAG])
            results.append(replace(result, phase=f"{phase}, seed {seed}", shares_head=shared))
        said, metrics = of_repeats(results)
        tracker.metrics(metrics)
        tracker.describe(f"{said}\n\n{of_data(config, data.manifest)}\n\n{markdown_table(results)}")
    return results


def refuse_seeds(config: Config) -> None:
    """Raise UserError for several seeds, where a phase is trained once."""
    if config.seeds > 1:
        raise UserError(
            f"seeds={config.seeds} is for -e baseline, head and finetune; leave it out here"
        )
