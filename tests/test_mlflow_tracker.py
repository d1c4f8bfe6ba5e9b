"""The real client of MLflow with its SQLite store. Few tests: a store takes seconds to create."""

import pytest
from tracker_files import load_mlflow

from pipeline.runs.trackers.mlflow_tracker import MlflowTracker
from pipeline.runs.trackers.tracker import TrackedModel, TrackedRun

ROWS = [{"epoch": epoch, "loss": 2.0 / epoch} for epoch in (1, 2, 3)]
SCORES = {"accuracy": 0.5, "log_loss": 1.25, "n": 100}


@pytest.mark.heavy
def test_resumed_models_are_runs_below_that_of_the_pipeline(tmp_path, monkeypatch, capfd):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "submissions" / "tiny"
    folder.mkdir(parents=True)
    (folder / "submission.csv").write_text("id,label\n")
    run = TrackedRun("0123", "tiny", "cifar-10", folder, {"seed": 7, "many": {str(n): n for n in range(150)}})
    folds = [TrackedModel(f"net fold {n}", "fold", folder / f"{n}", {"train": {"epochs": 3}}, 3) for n in range(2)]
    refit = TrackedModel("net refit 0", "refit", folder / "refit", {"head": "full"}, 3)

    interrupted = MlflowTracker(run)
    for row in ROWS[:2]:
        for model in folds:
            interrupted.log_epoch(model, row)
    interrupted.close(failed=True)
    killed = load_mlflow(folder.parent)
    resumed = MlflowTracker(run)
    for row in ROWS[1:]:  # the checkpoint of the second epoch was not saved
        resumed.log_epoch(folds[0], row)
    for model in (*folds, refit):
        resumed.finish_model(model, SCORES if model.kind == "fold" else {})
    resumed.finish_run(SCORES, [folder / "submission.csv"])
    resumed.close(failed=False)

    runs = load_mlflow(folder.parent)
    assert {each["status"] for each in killed.values()} == {"KILLED"}
    assert {name: each["id"] for name, each in killed.items()}.items() <= {
        name: each["id"] for name, each in runs.items()
    }.items()
    assert set(runs) == {"tiny", "net fold 0", "net fold 1", "net refit 0"}
    assert {each["status"] for each in runs.values()} == {"FINISHED"}
    assert {runs[model.name]["parent"] for model in (*folds, refit)} == {runs["tiny"]["id"]}
    assert runs["net fold 0"]["metrics"]["loss"] == [(1, 2), (2, 1), (3, 2 / 3)]
    assert runs["net fold 1"]["metrics"]["out_of_fold/n"] == [(3, 100)]
    assert runs["net fold 0"]["params"] == {"train.epochs": "3"}
    assert runs["tiny"]["params"]["seed"] == "7"
    assert len(runs["tiny"]["params"]) == 1 + 150
    assert runs["tiny"]["metrics"]["out_of_fold/accuracy"] == [(0, 0.5)]
    assert runs["tiny"]["artefacts"] == ["submission.csv"]
    assert len(list((folder.parent / "mlflow_artifacts").rglob("submission.csv"))) == 1
    assert capfd.readouterr() == ("", "")

    other = MlflowTracker(TrackedRun("4567", "other", "cifar-10", folder.parent / "other", {"seed": 7}))
    other.close(failed=False)
    assert load_mlflow(folder.parent)["other"]["id"] != runs["tiny"]["id"]
