"""Context, upload message and evaluation by themselves; whole jobs are in test_end_to_end.py."""

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from pipeline import predictions
from pipeline.config import Config
from pipeline.config_files import DEFAULT_CONFIG
from pipeline.errors import ConfigError, RunError
from pipeline.evaluate import validate
from pipeline.results import Accuracy, Agreement, CascadeStats, EnsembleMetrics, Metrics, Scores
from pipeline.run_context import open_context, prepare_run
from pipeline.runs.fold_table import FoldTable
from pipeline.runs.run_folder import RunFolder
from pipeline.submission.check import upload_instructions
from pipeline.submit import ensemble_scores, expected_submission, message_of
from pipeline.task import CIFAR10
from pipeline.workflow import predict, report, train

ACCURACY = {"num_images": 1234, "accuracy": 0.91234, "accuracy_ci95": (0.90987, 0.9148)}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder(Path("submissions"), "mine")
    run.create_or_verify(Config(seed=7), {}, {"config": "the config"})
    return run


def test_full_submission_comes_with_the_commands_that_upload_it(run):
    ensemble = EnsembleMetrics(
        temperatures={"net": 1.0},
        weights={"net": 1.0},
        scores=Scores(**ACCURACY, log_loss=0.3),
        per_class={"cat": Accuracy(**ACCURACY)},
        confusion_matrix=[[1]],
    )
    run.save_metrics(Metrics(members={}, ensemble=ensemble))

    assert upload_instructions(run.name, run.submission, message_of(run, ensemble_scores(run)), 300_000, CIFAR10) == (
        "upload it: python run.py submit --run mine\n"
        "or with the kaggle client alone: kaggle competitions submit -c cifar-10 -f submissions/mine/submission.csv "
        "-m 'mine: the config, CV 0.9123 (0.9099 to 0.9148)'"
    )


def test_short_submission_is_not_for_upload(run):
    assert upload_instructions(run.name, run.submission, "message", 60, CIFAR10) == (
        "not for upload: it has 60 rows, Kaggle expects one for each of 300,000 test images"
    )


def test_submission_is_found_from_inside_its_run_folder(run, monkeypatch):
    ids = np.arange(1, 4)
    test = predictions.Predictions(ids, np.eye(3, dtype=np.float32))
    agreement = Agreement(num_images=3, models=["net fold 0"], rates=[[1.0]])
    stats = CascadeStats(stages=[], full_forward_passes=2, mean_forward_passes=2, agreement=agreement)
    run.save_test_predictions(predictions.CascadePredictions(test, np.full(3, 2), stats))
    for folder, file in (("submissions/mine", "submission.csv"), ("..", "mine/submission.csv")):
        monkeypatch.chdir(folder)
        expected = expected_submission(Path(file), Path("input"), CIFAR10)

        assert str(expected) == "the test images of the run mine, 3"
        assert expected.labels.tolist() == [0, 1, 2]


def test_existing_run_keeps_its_own_config(run, zip_folder):
    assert open_context(CIFAR10, input_dir=zip_folder, run_name="mine").config.seed == 7
    assert open_context(CIFAR10, input_dir=zip_folder, run_name="mine").config_name == "mine"
    with pytest.raises(ConfigError, match=r"(?s)mine was started with another config.*seed: 7 -> 0"):
        open_context(CIFAR10, config_path=DEFAULT_CONFIG, input_dir=zip_folder, run_name="mine")


def test_new_run_has_the_default_config_and_its_name(run, zip_folder):
    other = open_context(CIFAR10, input_dir=zip_folder, run_name="other")

    assert (other.run.name, other.config_name, other.config.seed) == ("other", "quick", 0)
    assert open_context(CIFAR10, input_dir=zip_folder).run.name == "quick"


def test_predict_raises_if_a_refit_is_missing(tmp_path, monkeypatch, zip_folder):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(
        "members: {net: {model: {name: tutorial_cnn}, train: {epochs: 1}}}\n"
        "folds: {train: [0]}\nrefit: {models: 1}\nmachine: {jobs: 1}\n"
    )
    context = open_context(CIFAR10, config_path=path, input_dir=zip_folder, only_fold=0)
    evaluation = train(context)

    assert evaluation.metrics.untrained_refits == ["net refit 0"]
    with pytest.raises(RunError, match=r"not trained yet: net refit 0; python run\.py train --run mine --input"):
        predict(context)


def test_predictions_and_report_need_all_folds(run, zip_folder):
    ids = np.arange(1, 11)
    run.save_folds(FoldTable(ids, np.arange(10), ids % 5, ids))
    context = open_context(CIFAR10, input_dir=zip_folder, run_name="mine")
    missing = [f"airbench94 fold {fold}" for fold in range(5)]

    assert validate(run, CIFAR10).metrics == run.metrics()
    assert run.metrics().untrained_folds == missing
    with pytest.raises(
        RunError, match=f"^run mine: not trained yet: {', '.join(missing)}; python run.py train --run"
    ) as error:
        predict(context)
    assert re.search(r"train --run mine --input (.*)", str(error.value))[1] == str(zip_folder)
    with pytest.raises(RunError, match=f"^run mine: not trained yet: {', '.join(missing)}; a report needs all"):
        report(run, zip_folder, CIFAR10)
    assert not run.submission.exists()


def test_file_of_pretrained_weights_is_part_of_the_input_wherever_it_is(tmp_path, monkeypatch, zip_folder):
    monkeypatch.chdir(tmp_path)
    weights = timm.create_model("test_resnet", num_classes=10).state_dict()
    torch.save(weights, "first.pth")
    torch.save({**weights, "fc.bias": torch.ones(10)}, "other.pth")
    Path("moved.pth").write_bytes(Path("first.pth").read_bytes())
    config = (
        "folds: {num_folds: 2}\nmembers: {net: {model: {name: test_resnet, weights: first.pth}, train: {epochs: 1}}}"
    )
    Path("mine.yaml").write_text(config)

    def prepare(file):
        overrides = [f"members.net.model.weights={file}"]
        prepare_run(open_context(CIFAR10, config_path=Path("mine.yaml"), input_dir=zip_folder, overrides=overrides))

    prepare("first.pth")
    prepare("moved.pth")
    with pytest.raises(RunError, match=r"(?s)mine was started on other input.*net_weights: \w+ -> \w+"):
        prepare("other.pth")
    Path("first.pth").unlink()
    options = {"input_dir": zip_folder, "run_name": "mine", "will_train": False}
    assert "net_weights" in open_context(CIFAR10, **options).input_checksums()
    assert RunFolder(Path("submissions"), "mine").environment()["pretrained"] == ["net"]
