import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import softmax

from pipeline import cascade
from pipeline.cascade import format_cascade_stats, predict_cascade
from pipeline.config import CascadeConfig
from pipeline.ensemble import Ensemble
from pipeline.executors.local import LocalExecutor
from pipeline.learning.device import Machine
from pipeline.learning.exit_rule import plan_full_ensemble, plan_stages
from pipeline.learning.predict import tta_views
from pipeline.predictions import Predictions
from pipeline.progress import progress_display
from pipeline.runs.fold_folder import FoldFolder
from pipeline.temperature_scaling import to_probabilities

NUM_IMAGES = 2000
ENSEMBLE = Ensemble({"good": 0.8, "fair": 1.2, "useless": 1.0}, {"good": 0.7, "fair": 0.3, "useless": 0.0})
LABELS = np.random.default_rng(0).integers(10, size=NUM_IMAGES)
STORE = SimpleNamespace(ids=np.arange(1, NUM_IMAGES + 1))
LOCAL = LocalExecutor(Machine())


class Job:
    """A fold whose model is a table of logits, one for each image and TTA view."""

    tta = "flip_translate"
    num_requests = itertools.count(1)
    fails_at = None

    def __init__(self, name, fold, folder, refit=0):
        self.member_name, self.fold, self.refit = name, fold, refit
        self.folder = FoldFolder(folder / name / (f"fold_{fold}" if fold is not None else f"refit_{refit}"))

    def __str__(self):
        return f"{self.member_name} {self.fold}" if self.fold is not None else f"{self.member_name} refit {self.refit}"

    def predict_test(self, machine, store, request, display):
        ids = store.ids[request.rows]
        saved = self.folder.load_test_slice(request.stage, 0, ids)
        if saved is not None:
            return saved
        if next(Job.num_requests) == Job.fails_at:
            raise KeyboardInterrupt
        predictions = Predictions(ids, self.logits(request.rows, request.views))
        self.folder.save_test_slice(request.stage, 0, predictions)
        return predictions

    def logits(self, rows, views):
        logits = np.zeros((len(rows), 10))
        for view in views:
            seed = (
                hash((self.member_name == "good", self.fold or 0, self.refit, view.flipped, view.translation)) % 2**32
            )
            noise = np.random.default_rng(seed).normal(
                0, 1 if self.member_name == "good" else 1.5, size=(NUM_IMAGES, 10)
            )
            logits += view.weight * (2.5 * np.eye(10)[LABELS] + noise)[rows]
        return (logits / sum(view.weight for view in views)).astype(np.float32)


@pytest.fixture(autouse=True)
def _reset_counter():
    Job.num_requests, Job.fails_at = itertools.count(1), None


def all_jobs(folder):
    return [Job(name, fold, folder) for name in ("fair", "good", "useless") for fold in range(3)]


def predict(folder, jobs=None, store=STORE, **cascade_values):
    fold_jobs, rows = all_jobs(folder), np.arange(NUM_IMAGES)
    out_of_fold = Predictions(rows, fold_jobs[3].logits(rows, tta_views(Job.tta)))
    config = CascadeConfig(**cascade_values) if cascade_values else None
    with progress_display() as display:
        return predict_cascade(
            jobs or fold_jobs, ENSEMBLE, store, LOCAL, display,
            config=config, seed=1, fold_jobs=fold_jobs, out_of_fold=out_of_fold,
        )  # fmt: skip


def test_full_ensemble_is_the_weighted_mean_of_calibrated_folds(tmp_path):
    result = predict(tmp_path)
    expected = np.zeros((NUM_IMAGES, 10))
    for name, weight, temperature in (("good", 0.7, 0.8), ("fair", 0.3, 1.2)):
        for fold in range(3):
            logits = Job(name, fold, tmp_path).logits(np.arange(NUM_IMAGES), tta_views(Job.tta))
            expected += weight / 3 * softmax(logits / temperature, axis=1)

    assert result.predictions.ids.tolist() == STORE.ids.tolist()
    assert np.allclose(to_probabilities(result.predictions.logits), expected, atol=1e-6)
    assert result.forward_passes.tolist() == [36] * NUM_IMAGES
    assert result.stats.mean_forward_passes == result.stats.full_forward_passes == 36
    assert [(stage.forward_passes, stage.num_images) for stage in result.stats.stages] == [(36, NUM_IMAGES)]


def test_member_without_weight_is_not_predicted(tmp_path):
    predict(tmp_path)

    assert (tmp_path / "good").exists()
    assert not (tmp_path / "useless").exists()


def test_few_forward_passes_give_nearly_the_same_predictions(tmp_path):
    full = to_probabilities(predict(tmp_path / "full").predictions.logits)
    result = predict(tmp_path / "few", calibration_size=400, max_accuracy_drop=0.005, max_forward_passes=36)
    stats, passes = result.stats, result.forward_passes

    assert (full.argmax(1) != result.predictions.labels).mean() < 0.03
    assert 0 < stats.expected_accuracy_drop <= 0.005
    assert {stage.num_budget_exits for stage in stats.stages} == {0}
    assert passes.mean() < 36 / 2
    assert passes.mean() == stats.mean_forward_passes
    assert (passes == 36).sum() >= 400
    assert [stage.num_images for stage in stats.stages] == [
        sum(passes[passes != 36] >= total) + (sum(passes == 36) - 400)
        for total in np.cumsum([stage.forward_passes for stage in stats.stages])
    ]


@pytest.mark.parametrize("budget", [9.0, 9.3])
def test_compute_budget_is_kept_at_any_accuracy_drop(tmp_path, budget):
    result = predict(tmp_path, calibration_size=400, max_accuracy_drop=0.0, max_forward_passes=budget)

    assert budget - 1 < result.forward_passes.mean() <= budget
    assert sum(stage.num_budget_exits for stage in result.stats.stages) > 0


def test_stage_without_images_is_not_started(tmp_path):
    result = predict(tmp_path, calibration_size=400, max_accuracy_drop=1.0, max_forward_passes=36)

    assert [stage.num_images for stage in result.stats.stages] == [NUM_IMAGES - 400]


def test_all_images_get_the_full_ensemble_if_the_sample_is_too_small_for_the_allowed_drop(tmp_path, caplog):
    caplog.set_level("INFO")
    result = predict(tmp_path, calibration_size=5000, max_accuracy_drop=0.0008)

    assert set(result.forward_passes.tolist()) == {36}
    assert result.stats.expected_accuracy_drop is None
    assert "a calibration sample of 400 of them can't show a drop of accuracy of 0.0008" in caplog.text


@pytest.mark.parametrize("max_accuracy_drop", [0.0, 0.5])
def test_a_handful_of_test_images_get_the_full_ensemble(tmp_path, max_accuracy_drop):
    few = SimpleNamespace(ids=np.arange(1, 5))
    result = predict(tmp_path, store=few, calibration_size=10, max_accuracy_drop=max_accuracy_drop)

    assert result.forward_passes.tolist() == [36] * 4


def test_calibration_sample_is_at_most_a_fifth_of_the_test_images(tmp_path):
    assert predict(tmp_path, calibration_size=5000, max_accuracy_drop=0.001).stats.calibration_size == 400


@pytest.mark.parametrize("fails_at", [1, 5, 13, 15])
def test_interrupted_cascade_resumes_to_the_same_bytes(tmp_path, fails_at):
    options = {"calibration_size": 400, "max_accuracy_drop": 0.005, "max_forward_passes": 36}
    uninterrupted = predict(tmp_path / "uninterrupted", **options)
    num_requests = next(Job.num_requests) - 1
    Job.num_requests, Job.fails_at = itertools.count(1), fails_at
    with pytest.raises(KeyboardInterrupt):
        predict(tmp_path / "interrupted", **options)
    resumed = predict(tmp_path / "interrupted", **options)

    assert next(Job.num_requests) - 1 == num_requests + 1
    assert resumed.predictions.logits.tobytes() == uninterrupted.predictions.logits.tobytes()
    assert resumed.forward_passes.tolist() == uninterrupted.forward_passes.tolist()
    assert resumed.stats == uninterrupted.stats


@pytest.mark.parametrize(
    "values", [{}, {"calibration_size": 200, "max_accuracy_drop": 0.01}], ids=["full ensemble", "cascade"]
)
def test_agreement_is_between_all_models_with_all_views_on_the_same_images(tmp_path, values):
    agreement = predict(tmp_path, **values).stats.agreement
    jobs = [Job(name, fold, tmp_path) for fold in range(3) for name in ("good", "fair")]
    shares = np.array(agreement.rates)

    assert agreement.num_images == (200 if values else NUM_IMAGES)
    assert agreement.models == [str(job) for job in jobs]
    assert np.array_equal(shares, shares.T)
    assert np.array_equal(np.diag(shares), np.ones(6))
    if not values:
        labels = [job.logits(np.arange(NUM_IMAGES), tta_views(Job.tta)).argmax(1) for job in jobs]
        assert shares[0, 1] == pytest.approx((labels[0] == labels[1]).mean(), abs=1e-3)


@pytest.fixture
def predictor(tmp_path):
    with progress_display() as display:
        yield cascade._EnsemblePredictor(all_jobs(tmp_path), ENSEMBLE, STORE, LOCAL, display)


def kept_ids(predictor):
    return [part.ids.tolist() for parts in predictor._parts for _, part in parts]


def test_only_logits_of_the_remaining_rows_are_kept(predictor):
    first, second, *_ = plan_stages(len(predictor.jobs), Job.tta)
    predictor.run_stage(first, "stage_0", np.arange(100), keep_logits=True)
    assert kept_ids(predictor) == [list(range(1, 101))]

    rows = np.array([3, 50, 99])
    predictor.discard_other_rows(rows)
    assert kept_ids(predictor) == [[4, 51, 100]]

    probabilities = predictor.run_stage(second, "stage_1", rows, keep_logits=True)
    good = predictor.jobs[0]
    parts = [(good.member_name, Predictions(STORE.ids[rows], good.logits(rows, tta_views(Job.tta)[:2])))]
    assert kept_ids(predictor) == [[4, 51, 100]] * 2
    assert np.allclose(probabilities, ENSEMBLE.probabilities(parts)[1], atol=1e-6)


def test_logits_of_the_last_stage_are_not_kept(predictor, monkeypatch):
    """At most one model's logits are in memory at a time."""
    (stage,) = plan_full_ensemble(len(predictor.jobs), Job.tta)
    num_kept, predict_test = [], Job.predict_test

    def count_and_predict(self, machine, store, request, display):
        num_kept.append(sum(map(len, predictor._parts)))
        return predict_test(self, machine, store, request, display)

    monkeypatch.setattr(Job, "predict_test", count_and_predict)
    predictor.run_stage(stage, "stage_0", np.arange(100), keep_logits=False)

    assert num_kept == [0] * 6
    assert kept_ids(predictor) == []
    assert predictor.agreement().num_images == 100


def test_cascade_keeps_only_logits_that_the_next_stage_needs(tmp_path, monkeypatch):
    kept, run_stage = [], cascade._EnsemblePredictor.run_stage

    def record_and_run(self, stage, name, rows, *, keep_logits):
        if name.startswith(cascade.STAGE):
            ids = STORE.ids[rows].tolist()
            kept.append(all(part.ids.tolist() == ids for parts in self._parts for _, part in parts))
        return run_stage(self, stage, name, rows, keep_logits=keep_logits)

    monkeypatch.setattr(cascade._EnsemblePredictor, "run_stage", record_and_run)
    predict(tmp_path, calibration_size=400, max_accuracy_drop=0.005, max_forward_passes=36)

    assert len(kept) > 2
    assert all(kept)


def test_models_are_ordered_by_fold_and_then_by_weight(predictor):
    assert [str(job) for job in predictor.jobs] == ["good 0", "fair 0", "good 1", "fair 1", "good 2", "fair 2"]


def test_refits_predict_before_the_fold_models(tmp_path):
    jobs = [
        Job("good", 0, tmp_path),
        *(Job(name, None, tmp_path, each) for each in (0, 1) for name in ("fair", "good")),
    ]
    models = predict(tmp_path, jobs).stats.agreement.models

    assert models == ["good refit 0", "fair refit 0", "good refit 1", "fair refit 1", "good 0"]


def test_refits_alone_predict_the_test_images_and_fold_models_only_the_calibration_sample(tmp_path):
    refits = [Job("good", None, tmp_path, each) for each in (0, 1)]
    result = predict(tmp_path, refits, calibration_size=400, max_accuracy_drop=0.005, max_forward_passes=12)
    saved = [path.name for path in (tmp_path / "good" / "fold_0" / "test_logits").iterdir()]

    assert result.stats.agreement.models == ["good refit 0", "good refit 1"]
    assert set(result.forward_passes[result.forward_passes > 12]) == {
        12 + 2 * 6
    }  # the calibration sample, by both members of the first fold
    assert saved == ["sample.000.npz"]
    assert not (tmp_path / "good" / "fold_1").exists()


def test_statistics_are_formatted_with_stages_and_mean(tmp_path):
    full = predict(tmp_path / "full").stats
    limited = predict(tmp_path, calibration_size=400, max_accuracy_drop=0.0, max_forward_passes=9.0).stats
    text = format_cascade_stats(limited, NUM_IMAGES)

    assert format_cascade_stats(full, NUM_IMAGES) == (
        "full ensemble for 2,000 test images: 36 forward passes (models x TTA views) each"
    )
    assert text.startswith("cascade: images by forward passes (models x TTA views): stage 1 (1 pass so far) 1,600, ")
    assert f"400 calibration images with all 36; mean {limited.mean_forward_passes:.2f} passes, " in text
    assert "early exits because the compute budget was exhausted" in text
