from pipeline.summary import format_metrics

SCORES = {"num_images": 1234, "accuracy": 0.5, "accuracy_95": [0.47, 0.53], "log_loss": 1.25}
COMPUTE = {"training_flop": 3e15, "training_seconds": 600.0, "prediction_flop_per_image": 2e9}
SAID = "accuracy 0.5000 (95 %: 0.4700 to 0.5300), log loss 1.2500, n = 1,234"


def test_an_unfinished_run_tells_what_is_missing():
    member = {"folds": {"0": SCORES}, "compute": COMPUTE}
    text = format_metrics({"members": {"net": member}, "missing": ["net fold 1"]})

    assert text.splitlines() == [
        f"net: fold 0: {SAID}",
        "net: trained folds 1, 10.0 min, 3.000 PFLOP, 5000 GFLOP/s; prediction 2.000 GFLOP an image and fold",
        "not trained yet: net fold 1",
    ]


def test_a_finished_run_shows_classes_and_confusion():
    metrics = {
        "members": {"net": {"folds": {"0": SCORES}, "compute": COMPUTE, "out_of_fold": SCORES}},
        "missing": [],
        "temperatures": {"net": 0.5},
        "weights": {"net": 1.0},
        "blend": SCORES,
        "per_class": {"cat": SCORES, "dog": SCORES},
        "confusion": [[3, 1], [0, 4]],
    }
    lines = format_metrics(metrics).splitlines()

    assert f"net: out of fold: {SAID}" in lines
    assert f"blend (net 1.000 at temperature 0.50): out of fold: {SAID}" in lines
    assert "cat          0.5000    0.4700 to 0.5300   1,234" in lines
    assert lines[-2:] == ["cat               3      1", "dog               0      4"]
