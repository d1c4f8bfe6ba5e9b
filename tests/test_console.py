import pytest

from pipeline.console import format_comparison, format_metrics, format_upload
from pipeline.ledger import Upload
from pipeline.results import (
    Accuracy,
    Comparison,
    Compute,
    EnsembleMetrics,
    MemberMetrics,
    Metrics,
    PairedTest,
    Scores,
)

SCORES = Scores(num_images=1234, accuracy=0.5, accuracy_ci95=(0.47, 0.53), log_loss=1.25)
CLASS_SCORES = Accuracy(num_images=1234, accuracy=0.5, accuracy_ci95=(0.47, 0.53))
COMPUTE = Compute(training_flops=3e15, training_seconds=600.0, prediction_flops_per_image=2e9)
TEXT = "accuracy 0.5000 (95 % CI 0.4700 to 0.5300), log loss 1.2500, n = 1,234"


def test_unfinished_run_lists_missing_folds():
    member = MemberMetrics(folds={0: SCORES}, compute=COMPUTE)
    text = format_metrics(
        Metrics(members={"net": member}, untrained_folds=["net fold 1"], untrained_refits=["net refit 0"])
    )

    assert text.splitlines() == [
        f"net fold 0: {TEXT}",
        "net: 1 fold trained, 10.0 min, 3.000 PFLOP, 5000 GFLOP/s; prediction 2.000 GFLOP per image and model",
        "not trained yet: net fold 1, net refit 0",
    ]


def test_finished_run_shows_classes_and_confusion_matrix():
    metrics = Metrics(
        members={"net": MemberMetrics(folds={0: SCORES}, compute=COMPUTE, out_of_fold=SCORES)},
        ensemble=EnsembleMetrics(
            temperatures={"net": 0.5},
            weights={"net": 1.0},
            scores=SCORES,
            per_class={"cat": CLASS_SCORES, "dog": CLASS_SCORES},
            confusion_matrix=[[3, 1], [0, 4]],
        ),
    )
    lines = format_metrics(metrics).splitlines()

    assert f"net out of fold: {TEXT}" in lines
    assert f"ensemble out of fold: {TEXT} (net: weight 1.000, temperature 0.50)" in lines
    assert "class        accuracy  95 % CI              n" in lines
    assert "cat          0.5000    0.4700 to 0.5300   1,234" in lines
    assert lines[-3:] == [
        "true \\ predicted     cat    dog",
        "cat                    3      1",
        "dog                    0      4",
    ]


def test_upload_is_formatted_next_to_the_cross_validation():
    upload = Upload("a", "one", "s.csv", "m", "2026-11-01", 7, "complete", 0.81, 0.8)

    assert format_upload(upload, 0.805) == (
        "submission 7 of s.csv: complete, public 0.8100, private 0.8000, out of fold 0.8050, "
        "public - out of fold +0.0050, private - out of fold -0.0050"
    )
    assert format_upload(Upload("a", "", "s.csv", "m", "", 7, "pending"), None) == "submission 7 of s.csv: pending"


@pytest.mark.parametrize(("p_value", "verdict"), [(0.0352, "significant at 5 %"), (0.5, "not significant at 5 %")])
def test_comparison_has_the_differences_and_their_significance(p_value, verdict):
    scores = Scores(num_images=100, accuracy=0.8, accuracy_ci95=(0.79, 0.81), log_loss=0.5)
    test = PairedTest(num_images=100, only_first=12, only_second=3, p_value=p_value)
    text = format_comparison("a", "b", Comparison(config=["seed: 0 -> 1"], scores=(scores, scores), test=test))

    assert text.splitlines() == [
        "config, a -> b:",
        "  seed: 0 -> 1",
        "a: out of fold: accuracy 0.8000 (95 % CI 0.7900 to 0.8100), log loss 0.5000, n = 100",
        "b: out of fold: accuracy 0.8000 (95 % CI 0.7900 to 0.8100), log loss 0.5000, n = 100",
        f"of 100 images only a classifies 12 correctly, only b 3: McNemar's exact test p = {p_value:.3g}, {verdict}",
    ]
