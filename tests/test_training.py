"""The loop, the optimizer and the seeds, each against what it claims."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tlkit.errors import UserError
from tlkit.serving.predict import predict_probabilities
from tlkit.training import checkpoints, loop
from tlkit.training.batches import epoch_batches, plain_batches
from tlkit.training.checkpoints import (
    load_checkpoint,
    load_result,
    save_checkpoint,
    save_result,
)
from tlkit.training.loop import CRITERION, Objective, Result, fit
from tlkit.training.optimizer import Schedule, adamw, learning_rates
from tlkit.training.precision import resolve_device, resolve_precision
from tlkit.training.seeding import seed_everything

CPU = torch.device("cpu")


def data(count: int = 40, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 6, generator=generator)
    return inputs, inputs[:, :classes].argmax(1)


def train(
    model: nn.Module,
    *,
    epochs: int = 3,
    batch_size: int = 8,
    accumulate: int = 1,
    objective: Objective | None = None,
    losses: list[float] | None = None,
    early_stopping: int = 0,
    keep: Callable[[Result], object] = lambda so_far: None,
    schedule: str = "plateau",
    **others: Any,
) -> Result:
    inputs, labels = data()

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in epoch_batches(len(inputs), batch_size, 0, epoch):
            yield inputs[batch], labels[batch]

    given = iter(losses or [])

    def validate() -> dict[str, float]:
        with torch.no_grad():
            loss = next(given, None) or float(F.cross_entropy(model(inputs), labels))
        return {CRITERION: loss}

    optimizer = adamw(
        model.named_parameters(), frozenset(), head_lr=1e-2, backbone_lr=1e-2, weight_decay=0.0
    )
    steps = math.ceil(len(inputs) / batch_size)
    return fit(
        model,
        others.pop("train_mode", model.train),
        batches,
        validate,
        optimizer,
        Schedule(
            optimizer, schedule, epochs=epochs, steps_per_epoch=steps // accumulate, warmup_epochs=1
        ),
        epochs=epochs,
        steps_per_epoch=steps,
        objective=objective or Objective(),
        accumulate=accumulate,
        early_stopping=early_stopping,
        device=CPU,
        dtype=others.pop("dtype", torch.float32),
        fast_kernels=True,
        log=others.pop("log", lambda metrics, epoch: None),
        keep=keep,
        description="test",
        **others,
    )


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def test_training_learns() -> None:
    result = train(model(), epochs=30)
    assert result.history[-1]["train/accuracy"] > 0.9
    assert result.history[-1][CRITERION] < result.history[0][CRITERION] / 2


def test_training_twice_gives_the_same_bits() -> None:
    first, second = model(), model()
    train(first)
    train(second)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "objective",
    [
        Objective(),
        Objective(label_smoothing=0.1),
        Objective(class_weights=torch.tensor([1.0, 5.0, 0.2])),
    ],
)
def test_accumulated_batches_equal_one_large_batch(objective: Objective) -> None:
    # 40 pictures: 16 + 16 + 8, against (8 + 8) + (8 + 8) + 8; the last group is a short one.
    large, small = model().double(), model().double()
    inputs, labels = data()

    def steps(net: nn.Module, batch_size: int, accumulate: int) -> None:
        optimizer = torch.optim.SGD([{"params": net.parameters(), "role": "head"}], lr=0.1)
        fit(
            net,
            net.train,
            lambda epoch: [
                (inputs[i : i + batch_size].double(), labels[i : i + batch_size])
                for i in range(0, 40, batch_size)
            ],
            lambda: {CRITERION: 1.0},
            optimizer,
            Schedule(optimizer, "plateau", epochs=1, steps_per_epoch=3, warmup_epochs=0),
            epochs=1,
            steps_per_epoch=5,
            objective=objective,
            accumulate=accumulate,
            early_stopping=0,
            device=CPU,
            dtype=torch.float32,
            fast_kernels=True,
            log=lambda metrics, epoch: None,
            keep=lambda so_far: None,
            description="test",
        )

    steps(large, 16, 1)
    steps(small, 8, 2)
    for a, b in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_the_objective_is_torch_cross_entropy() -> None:
    logits, labels = torch.randn(7, 3), torch.tensor([0, 1, 2, 2, 1, 0, 2])
    weights = torch.tensor([0.5, 1.0, 3.0])
    ours = Objective(0.1, weights)
    expected = F.cross_entropy(logits, labels, weight=weights, label_smoothing=0.1)
    assert float(ours.total(logits, labels)) / ours.weight(labels) == pytest.approx(float(expected))


def test_early_stopping_waits_for_the_best_epoch_and_keeps_it() -> None:
    kept: list[tuple[int, int]] = []
    result = train(
        model(),
        epochs=10,
        losses=[3.0, 2.0, 2.5, 2.4, 2.0, 1.0],  # no other is lower than the second
        early_stopping=3,
        keep=lambda so_far: kept.append((len(so_far.history), so_far.best_epoch)),
    )
    assert len(result.history) == 5
    assert result.best_epoch == 1
    assert kept == [(1, 0), (2, 1), (3, 1), (4, 1), (5, 1)]


@pytest.mark.parametrize("step", [0, 49, 50, 51, 139])
def test_a_loss_that_is_not_finite_is_told_with_its_step_and_soon(step: int) -> None:
    net, taken = model(), []

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(140):
            taken.append(number)
            bad = epoch == 1 and number == step
            yield torch.full((2, 6), math.nan if bad else 0.0), torch.zeros(2, dtype=torch.int64)

    optimizer = torch.optim.SGD([{"params": net.parameters(), "role": "head"}], lr=0.1)
    with pytest.raises(UserError, match=rf"training loss at epoch 1, step {step} is nan"):
        fit(
            net, net.train, batches, lambda: {CRITERION: 1.0}, optimizer,
            Schedule(optimizer, "plateau", epochs=2, steps_per_epoch=140, warmup_epochs=0),
            epochs=2, steps_per_epoch=140, objective=Objective(), accumulate=1, early_stopping=0,
            device=CPU, dtype=torch.float32, fast_kernels=True, log=lambda metrics, epoch: None,
            keep=lambda so_far: None, description="test",
        )  # fmt: skip
    assert len(taken) - 140 - step <= 51


def test_no_batch_waits_for_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bool] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is torch.ops.aten._local_scalar_dense.default:
                read.append(True)
            return func(*args, **(kwargs or {}))

    stacked: list[int] = []
    plus = loop._plus
    with monkeypatch.context() as patch, Count():
        patch.setattr(loop, "_READ", 4)
        patch.setattr(
            loop,
            "_plus",
            lambda so_far, losses, *at: stacked.append(len(losses)) or plus(so_far, losses, *at),
        )
        train(model(), epochs=1, batch_size=4)
    assert len(read) <= 2  # the sum of what was right, and the loss of validation
    assert stacked == [4, 4, 2]


def test_an_epoch_is_logged_with_its_number_its_loss_and_the_rates_that_it_began_with() -> None:
    weights = torch.tensor([1.0, 5.0, 0.2])
    inputs, labels = data()
    net, logged, modes = model(), [], []
    with torch.no_grad():
        expected = F.cross_entropy(net(inputs), labels, weight=weights)
        right = (net(inputs).argmax(1) == labels).double().mean()
    train(
        net,
        epochs=3,
        batch_size=40,
        schedule="cosine",
        objective=Objective(class_weights=weights),
        train_mode=lambda: modes.append(len(logged)),
        log=lambda metrics, epoch: logged.append((epoch, metrics)),
    )
    assert modes == [0, 1, 2]  # for validation puts the model in eval mode
    assert [epoch for epoch, _ in logged] == [0, 1, 2]
    assert logged[0][1]["train/loss"] == pytest.approx(float(expected))
    assert logged[0][1]["train/accuracy"] == pytest.approx(float(right))
    rates = [metrics["lr/backbone"] for _, metrics in logged]
    assert rates == pytest.approx([0.5e-2, 1e-2, 0.5e-2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_compute_in_the_precision_that_is_asked_for(dtype: torch.dtype) -> None:
    net, seen = model(), []
    net[3].register_forward_hook(lambda module, given, logits: seen.append(logits.dtype))
    train(net, epochs=1, batch_size=40, dtype=dtype)
    assert seen[0] == dtype


def test_a_training_that_begins_in_the_midst_counts_on() -> None:
    begun = Result([{"epoch": 0, CRITERION: 1.0}, {"epoch": 1, CRITERION: 2.0}], 0, 1000.0)
    epochs: list[int] = []
    result = train(
        model(),
        epochs=4,
        begun=begun,
        losses=[0.5, 3.0],
        log=lambda metrics, epoch: epochs.append(epoch),
    )
    assert epochs == [2, 3]
    assert [epoch["epoch"] for epoch in result.history] == [0, 1, 2, 3]
    assert result.best_epoch == 2
    assert 1000 < result.seconds < 1060


def test_a_validation_loss_that_is_not_finite_stops() -> None:
    with pytest.raises(UserError, match=r"validation loss after epoch 1 is inf"):
        train(model(), losses=[1.0, float("inf")])


@pytest.mark.parametrize(("undecayed", "decay"), [((), 0.1), ({"3.weight"}, 0.0)])
def test_groups_have_their_rates_and_norms_and_biases_no_decay(
    undecayed: set[str], decay: float
) -> None:
    net = model()
    net[0].weight.requires_grad_(False)
    optimizer = adamw(
        net.named_parameters(),
        frozenset({"3.weight", "3.bias"}),
        head_lr=1e-2,
        backbone_lr=1e-4,
        weight_decay=0.1,
        undecayed=undecayed,
    )
    seen = {
        id(parameter): (group["role"], group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert seen == {
        id(net[0].bias): ("backbone", 1e-4, 0.0),
        id(net[1].weight): ("backbone", 1e-4, 0.0),
        id(net[1].bias): ("backbone", 1e-4, 0.0),
        id(net[3].weight): ("head", 1e-2, decay),
        id(net[3].bias): ("head", 1e-2, 0.0),
    }
    assert learning_rates(optimizer) == {"lr/head": 1e-2, "lr/backbone": 1e-4}


def test_the_plateau_halves_after_three_epochs_without_progress() -> None:
    result = train(model(), epochs=5, losses=[1.0, 2.0, 2.0, 2.0, 2.0])
    assert [epoch["lr/backbone"] for epoch in result.history] == [1e-2] * 4 + [5e-3]


def cosine_rates(epochs: int, warmup_epochs: float) -> list[float]:
    """Of each step, ten an epoch, and after the last one."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = Schedule(
        optimizer, "cosine", epochs=epochs, steps_per_epoch=10, warmup_epochs=warmup_epochs
    )
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(10 * epochs):
        optimizer.step()
        schedule.after_step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_the_cosine_warms_up_and_falls_to_zero() -> None:
    rates = cosine_rates(epochs=5, warmup_epochs=1)
    assert rates[:10] == sorted(rates[:10])
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[50] == pytest.approx(0.0, abs=1e-12)


def test_the_cosine_warms_up_for_half_of_all_steps_at_most() -> None:
    rates = cosine_rates(epochs=1, warmup_epochs=3)
    assert max(rates) == rates[5] == 1.0
    assert rates[9] < 0.1


def test_the_cosine_warms_up_for_a_part_of_an_epoch() -> None:
    rates = cosine_rates(epochs=5, warmup_epochs=0.5)
    assert max(rates) == rates[5] == 1.0


def test_an_epoch_sees_each_picture_once_in_an_order_of_its_own() -> None:
    first, again = epoch_batches(33, 16, 0, 0), epoch_batches(33, 16, 0, 0)
    assert first == again
    assert sorted(index for batch in first for index in batch) == list(range(33))
    assert [len(batch) for batch in first] == [16, 17]  # no batch of one for batch norm
    assert [len(batch) for batch in epoch_batches(4, 1, 0, 0)] == [1, 1, 1, 1]
    assert epoch_batches(33, 16, 0, 1) != first
    assert epoch_batches(33, 16, 1, 0) not in (first, epoch_batches(33, 16, 0, 1))
    assert epoch_batches(1, 16, 0, 0) == [[0]]


def test_plain_batches_keep_the_order_and_drop_nothing() -> None:
    assert plain_batches(5, 2) == [[0, 1], [2, 3], [4]]


def test_a_checkpoint_reads_back_and_leaves_no_parts(tmp_path: Path) -> None:
    state = {"a.weight": torch.randn(3, 4), "count": torch.tensor(7)}
    save_checkpoint(tmp_path / "best", state, {"epoch": 3})
    loaded, facts = load_checkpoint(tmp_path / "best")
    assert facts == {"epoch": 3}
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.json", "best.safetensors"]


def test_tied_weights_are_kept_under_each_name(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    state = {"one": weight, "other": weight, "row": weight[0], "turned": weight.t()}
    save_checkpoint(tmp_path / "best", state, {})
    loaded, _ = load_checkpoint(tmp_path / "best")
    assert torch.equal(loaded["one"], weight)
    assert torch.equal(loaded["other"], weight)
    assert torch.equal(loaded["row"], weight[0])
    assert torch.equal(loaded["turned"], weight.t())


@pytest.mark.parametrize("cut", ["best.safetensors", "best.json", "result.json"])
def test_a_file_that_is_cut_off_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    def save(epoch: int) -> None:
        save_checkpoint(tmp_path / "best", {"a": torch.full((2,), epoch)}, {"epoch": epoch})
        save_result(tmp_path, Result([], 0, float(epoch)))

    save(3)
    before = (tmp_path / cut).read_bytes()

    def cut_off(write: Callable[..., object]) -> Callable[..., object]:
        def written(*given: Any, **how: Any) -> object:
            [path] = (each for each in given if isinstance(each, Path))
            if cut not in path.name:  # whatever is added to it
                return write(*given, **how)
            path.write_bytes(b"{")
            raise KeyboardInterrupt

        return written

    monkeypatch.setattr(Path, "write_text", cut_off(Path.write_text))
    monkeypatch.setattr(checkpoints, "save_file", cut_off(checkpoints.save_file))
    with pytest.raises(KeyboardInterrupt):
        save(4)
    assert (tmp_path / cut).read_bytes() == before
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"best.safetensors", "best.json", "result.json"}


def test_a_result_comes_back_and_is_none_where_there_is_none(tmp_path: Path) -> None:
    assert load_result(tmp_path) is None
    result = Result([{"epoch": 0, CRITERION: 0.5}], 0, 1.5)
    save_result(tmp_path, result)
    assert load_result(tmp_path) == result
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_precision_and_device_resolve() -> None:
    assert resolve_precision("fp32", CPU) == torch.float32
    assert resolve_precision("bf16", CPU) == torch.bfloat16
    assert resolve_precision("auto", CPU) in (torch.float32, torch.bfloat16)
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize(("capability", "dtype"), [(7, torch.float32), (8, torch.bfloat16)])
def test_a_gpu_without_bfloat16_does_not_emulate_it(
    capability: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = SimpleNamespace(major=capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert resolve_precision("auto", torch.device("cuda")) == dtype


@pytest.mark.parametrize(
    ("card", "known", "runs"),
    [
        ((7, 0), ["sm_75", "sm_80"], False),
        ((7, 5), ["sm_75", "sm_80"], True),
        ((8, 6), ["sm_75", "sm_80"], True),
        ((8, 0), ["sm_75", "sm_86"], False),
        ((12, 0), ["sm_90", "sm_100"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((9, 0), ["sm_90a", "compute_120"], True),
        ((9, 4), ["gfx942"], True),
        ((9, 0), [], True),
    ],
)
def test_a_card_that_torch_has_no_code_for_is_passed_over_and_told(
    card: tuple[int, int], known: list[str], runs: bool, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: card)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: known)
    if runs:
        assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda")
        assert not capsys.readouterr().err
        return
    said = f"this torch has code for {', '.join(known)} and the card is sm_{card[0]}{card[1]}"
    assert [resolve_device("auto") for _ in range(2)] == [CPU, CPU]
    assert capsys.readouterr().err == f"device=auto: computing on the CPU, for {said}\n"
    with pytest.raises(UserError, match=f"device=cuda: {said}; use device=cpu or auto"):
        resolve_device("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_says_what_to_use() -> None:
    with pytest.raises(UserError, match="use device=cpu or auto"):
        resolve_device("cuda")


@pytest.fixture
def settings() -> Iterator[Callable[[], list[object]]]:
    """Reads what torch computes by; it is put back afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before, allowed = [one.fp32_precision for one in (cudnn.conv, cudnn.rnn)], cudnn.allow_tf32
    threads, repeatable = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield lambda: [
        *(one.fp32_precision for one in (cudnn.conv, cudnn.rnn, matmul)),
        cudnn.allow_tf32, matmul.allow_tf32, torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    ]  # fmt: skip
    cudnn.allow_tf32 = allowed
    cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = before
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(repeatable)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.set_num_threads(threads)


@pytest.mark.parametrize("matrices", ["highest", "high"])
def test_a_gpu_is_told_to_repeat_itself_in_full_float32_and_a_cpu_nothing(
    matrices: str, settings: Callable[[], list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    torch.set_float32_matmul_precision(matrices)
    before = settings()
    seed_everything(0, 1, CPU)
    assert settings() == before
    seed_everything(0, 1, torch.device("cuda"))
    # Read by the older settings too, which raise where they disagree with the newer ones.
    assert settings() == ["ieee", "ieee", "ieee", False, False, "highest", True, False]


@pytest.mark.usefixtures("settings")
def test_predictions_leave_alone_what_a_process_computes_by() -> None:
    # After which torch's older settings raise where they are read.
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    rows = predict_probabilities(nn.Flatten(), [torch.zeros(2, 3, 1, 1)], CPU)
    assert rows.shape == (2, 3)
    assert torch.backends.cudnn.conv.fp32_precision == "ieee"
