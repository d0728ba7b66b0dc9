import pytest

from enginery.errors import UsageError
from enginery.passes.module.training.options import Training, learning_rate


@pytest.mark.parametrize("schedule", ["linear", "cosine", "exponential"])
def test_schedules_fall_from_lr_to_its_final_part(schedule):
    options = Training(epochs=1, lr=0.1, schedule=schedule, final=0.01)
    rates = [learning_rate(options, t / 10) for t in range(11)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.001)
    assert rates == sorted(rates, reverse=True)


def test_constant_schedule_and_warm_up():
    options = Training(epochs=1, lr=0.1, schedule="constant", warmup=0.2)
    assert learning_rate(options, 0.1) == pytest.approx(0.05)
    assert learning_rate(options, 0.2) == learning_rate(options, 1.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "option",
    [
        {"epochs": 0},
        {"minutes": 0.0},
        {"batch": 0},
        {"lr": 0.0},
        {"warmup": 1.0},
        {"final": 0.0},
        {"clip": 0.0},
        {"ema": 1.0},
        {"label_smoothing": 1.0},
        {"strength": -1.0},
        {"patience": 0},
    ],
)
def test_options_out_of_range_are_named(option):
    (name,) = option
    with pytest.raises(UsageError, match=f"recover: {name}="):
        Training(**({"epochs": 1} | option)).check("recover")


def test_a_training_needs_a_bound():
    with pytest.raises(UsageError, match="give epochs or minutes"):
        Training().check("recover")
