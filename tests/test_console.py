from pipeline.ledger import Upload
from pipeline.console import format_comparison, format_metrics, format_upload

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


def test_an_upload_is_told_beside_the_cross_validation():
    upload = Upload("a", "one", "s.csv", "m", "2026-11-01", 7, "complete", 0.81, 0.8)

    assert format_upload(upload, 0.805) == (
        "submission 7 of s.csv: complete, public 0.8100, private 0.8000, out of fold 0.8050, "
        "public - out of fold +0.0050, private - out of fold -0.0050"
    )
    assert format_upload(Upload("a", "", "s.csv", "m", "", 7, "pending"), None) == "submission 7 of s.csv: pending"


def test_a_comparison_names_what_differs_and_whether_it_is_chance():
    scores = {"accuracy": 0.8, "accuracy_95": (0.79, 0.81), "log_loss": 0.5, "num_images": 100}
    found = {
        "recipe": ["seed: 0 -> 1"],
        "accuracy": [scores, scores],
        "test": {"num_images": 100, "only_first": 12, "only_second": 3, "p_value": 0.0352},
    }

    assert "  seed: 0 -> 1" in format_comparison("a", "b", found)
    assert "only a has 12 right, only b 3: McNemar's exact test p = 0.0352, more than chance" in format_comparison(
        "a", "b", found
    )
    found["test"]["p_value"] = 0.5
    assert "no more than chance may give" in format_comparison("a", "b", found)
