"""A run on a fake Kaggle, in this process: what is pushed, every error, and what the server received."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import CONFIG
from kaggle_server import KEY, KaggleServer, Response, make_home
from kagglesdk import kaggle_env

from pipeline.config_files import override_config
from pipeline.errors import ConfigError, KaggleError, RunError
from pipeline.remote import follow, in_kernel
from pipeline.remote.kernel_source import read_settings
from pipeline.remote.remote import RemoteOptions, fetch_remote, kernel_name, run_remote
from pipeline.run_config import find_config
from pipeline.submission.kaggle_kernels import KernelClient
from pipeline.task import CIFAR10

NAME = "somebody/cifar-10-run-tiny"
URL = f"https://www.kaggle.com/code/{NAME}"


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """A working folder with a config, and a home folder with an API key and no other credentials."""
    make_home(monkeypatch, tmp_path)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    return tmp_path


@pytest.fixture
def server(monkeypatch):
    with KaggleServer().running() as server:
        server.kernels.execute = False
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, server.url)
        yield server


@pytest.fixture
def client():
    return KernelClient(CIFAR10, request_timeout=5, retry_timeout=30, sleep=lambda _: None)


@pytest.fixture
def remote(client):
    """Start or resume the run tiny without waiting for it."""

    def run(*overrides, is_config_given=True, **options):
        wanted = find_config(Path("tiny.yaml"), None, overrides)
        options = RemoteOptions(**({"wait": False} | options))
        return run_remote(CIFAR10, wanted, options, client, is_config_given=is_config_given)

    return run


def pushed(server):
    return [body for name, body in server.received if name == "SaveKernel"]


def complete(server, run_folder, name=NAME, **changes):
    """End a kernel as if it had run: with a copy of a finished run as its output."""
    kernel = server.kernels.kernels[name]
    shutil.copytree(run_folder, kernel.working / "submissions" / "tiny")
    settings = vars(read_settings(kernel.request["text"]))
    in_kernel.leave_output(settings, kernel.working, is_complete=changes.pop("is_complete", True))
    manifest = kernel.working / in_kernel.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))
    kernel.status = "COMPLETE"


@pytest.fixture
def finished(whole_run):
    return whole_run[0] / "submissions" / "tiny"


def test_private_script_with_gpu_internet_and_the_competition_is_pushed(server, remote, caplog):
    with caplog.at_level("INFO", "pipeline"):
        assert remote() is None
    (body,) = pushed(server)
    text = body.pop("text")

    assert body == {
        "slug": NAME,
        "newTitle": "cifar 10 run tiny",
        "language": "python",
        "kernelType": "script",
        "isPrivate": True,
        "enableGpu": True,
        "enableTpu": False,
        "enableInternet": True,
        "competitionDataSources": ["cifar-10"],
        "machineShape": "NvidiaTeslaT4",
    }
    assert len(text) < 400_000
    assert f"kernel source: {len(text):,} of at most 1,000,000 bytes" in caplog.text
    assert "GPU quota: 1.0 of 30.0 h used, reset on 2026-12-05 00:00 UTC" in caplog.text
    assert KEY not in text
    assert str(Path.home()) not in text


def test_kernel_without_gpu_or_internet_mounts_datasets_and_models(server, remote):
    remote(accelerator="none", internet=False, datasets=("a/weights",), models=("a/m/pyTorch/b0/1",))
    (body,) = pushed(server)

    assert [body[key] for key in ("datasetDataSources", "modelDataSources")] == [["a/weights"], ["a/m/pyTorch/b0/1"]]
    assert not body.get("enableGpu")
    assert not body.get("enableInternet")
    assert "GetAcceleratorQuotaStatistics" not in server.names()


def test_token_is_sent_with_every_call_and_names_the_owner(server, remote, finished, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", f"KGAT_{KEY}")
    remote()
    complete(server, finished)
    remote()

    assert pushed(server)[0]["slug"] == NAME
    assert set(server.authorizations) == {f"Bearer KGAT_{KEY}"}
    assert KEY not in pushed(server)[0]["text"]


@pytest.mark.heavy
def test_log_is_followed_to_its_end_over_broken_connections(server, remote, finished, caplog, monkeypatch):
    remote()
    kernel, polls = server.kernels.kernels[NAME], []
    kernel.log = [{"data": text} for text in ("12:00:00 one\n", "tw", "o\n")]
    kernel.status, server.kernels.log_pieces = "RUNNING", 2
    server.faults["log"] = [Response(500)]

    def end_later(_seconds):
        polls.append(1)
        if len(polls) == 4:
            kernel.log += [{"data": "three\n"}, {"data": "end"}]
            complete(server, finished)

    monkeypatch.setattr(follow, "time", SimpleNamespace(sleep=end_later))
    with caplog.at_level("INFO", "pipeline"):
        remote(wait=True)
    messages = [record.getMessage() for record in caplog.records]

    assert [message for message in messages if URL not in message][-4:] == ["one", "two", "three", "end"]
    assert len(polls) == 4


def test_second_call_finds_the_kernel_by_the_name_of_the_run(server, remote, caplog):
    remote()
    with caplog.at_level("INFO", "pipeline"):
        remote()

    assert len(pushed(server)) == 1
    assert f"kernel {URL}: queued; the same command without --no-wait follows it" in caplog.text


@pytest.mark.parametrize("arrived", [True, False])
def test_push_without_a_response_is_looked_up_before_it_is_sent_again(server, remote, arrived):
    server.faults["SaveKernel"] = [Response(close=True, process_first=arrived)]
    remote()

    assert len(pushed(server)) == 1
    assert server.kernels.kernels[NAME].version == 1


def test_429_and_5xx_are_retried(server, remote):
    server.faults["SaveKernel"] = [Response(429, headers={"Retry-After": "2"}), Response(503)]
    server.faults["GetKernel"] = [Response(500)]
    server.faults["GetKernelSessionStatus"] = [Response(502), Response(close=True)]
    remote()

    assert len(pushed(server)) == 1


QUOTA = "Maximum weekly GPU quota of 30.00 hours reached"
COUNT = "Maximum batch GPU session count of 2 reached"


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        (QUOTA, "Wait for the weekly reset, or use --accelerator none"),
        (COUNT, "Wait for another kernel of yours, or stop it: https://www.kaggle.com/code"),
        ("Phone verification required", "need a verified phone number: https://www.kaggle.com/settings"),
        ("You must accept the competition rules", "in a browser: https://www.kaggle.com/c/cifar-10/rules"),
        ("The kernel source must be less than 1 megabytes in size.", "1 megabytes in size."),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 403])
def test_rejected_push_is_one_line_with_a_remedy(server, remote, message, remedy, status):
    if status == 200:
        server.kernels.push_error = message
    else:
        server.faults["SaveKernel"] = [Response(status, message)]
    with pytest.raises(KaggleError) as error:
        remote()

    assert str(error.value).startswith(f"Kaggle did not start the kernel: {message}")
    assert str(error.value).endswith(remedy)
    assert "\n" not in str(error.value)
    assert not server.kernels.kernels


def test_nothing_is_pushed_without_quota(server, remote):
    server.kernels.quota = ("108000s", "108000s")
    with pytest.raises(KaggleError, match=r"^no GPU quota is left \(30.0 of 30.0 h used, reset on 2026-12-05"):
        remote()

    assert pushed(server) == []


def test_unknown_quota_is_not_an_error(server, remote, caplog):
    server.faults["GetAcceleratorQuotaStatistics"] = [Response(404, "Not found")]
    with caplog.at_level("INFO", "pipeline"):
        remote()

    assert "GPU quota unknown" in caplog.text
    assert len(pushed(server)) == 1


def test_competition_that_kaggle_does_not_mount_is_an_error(server, remote):
    server.kernels.invalid = {"invalidCompetitionSources": ["cifar-10"]}
    with pytest.raises(KaggleError, match=r"Accept the competition's rules in a browser: https://www\.kaggle\.com/c/"):
        remote()


def test_dataset_that_kaggle_does_not_mount_is_an_error(server, remote):
    server.kernels.invalid = {"invalidDatasetSources": ["a/b"]}
    with pytest.raises(KaggleError, match=r"^Kaggle can't mount a/b in the kernel: check name and access$"):
        remote(datasets=("a/b",))


@pytest.mark.parametrize("names", [{"datasets": ("weights",)}, {"models": ("a/m/pyTorch/b0",)}])
def test_name_that_the_client_rejects_is_an_error(server, remote, names):
    with pytest.raises(KaggleError, match=r"can't be mounted: .* must be specified in the form of"):
        remote(**names)
    assert pushed(server) == []


def test_wrong_key_is_an_error(server, remote):
    server.faults["GetKernel"] = [Response(401, "Unauthorized")]
    with pytest.raises(KaggleError, match=r"^Kaggle rejected the credentials \(401: Unauthorized\)"):
        remote()


def test_failed_kernel_is_an_error_with_its_last_error(server, remote):
    remote()
    kernel = server.kernels.kernels[NAME]
    kernel.status, kernel.failure = "ERROR", "Your notebook\nfailed"
    kernel.log = [
        {"data": text} for text in ("kernel: start\n", "error: the packages can't be ", "installed\n", "end\n")
    ]
    with pytest.raises(KaggleError) as error:
        remote(wait=True)

    reason = "Your notebook failed: the packages can't be installed"
    assert str(error.value) == f"the kernel {URL} failed ({reason}); --again pushes it once more"
    kernel.log = [{"data": f"line {number}\n"} for number in range(9)]
    with pytest.raises(KaggleError, match=r"failed: line 6 \| line 7 \| line 8\)"):
        remote()
    assert len(pushed(server)) == 1


def test_again_pushes_a_failed_kernel_once(server, remote):
    remote()
    server.kernels.kernels[NAME].status = "ERROR"
    remote(again=True)
    remote(again=True)

    assert len(pushed(server)) == 2
    assert server.kernels.kernels[NAME].version == 2


@pytest.mark.parametrize("status", ["CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED"])
def test_cancelled_kernel_is_an_error(server, remote, status):
    remote()
    server.kernels.kernels[NAME].status = status
    with pytest.raises(KaggleError, match=r"was cancelled \(no reason given\); --again pushes it once more$"):
        remote(wait=True)


def test_output_is_fetched_page_by_page_and_checked(server, remote, finished):
    remote()
    complete(server, finished)
    run = remote()
    origin = json.loads((run.path / "remote.json").read_text())
    pages = [body.get("pageToken") for name, body in server.received if name == "ListKernelSessionOutput"]

    assert (origin["kernel"], origin["session"], origin["outcome"]) == (URL, 1, "complete")
    assert {name: in_kernel.checksum(run.path.parents[1] / name) for name in origin["files"]} == origin["files"]
    assert "40" in pages
    assert run.submission.read_bytes() == (finished / "submission.csv").read_bytes()
    calls = len(server.received)
    assert remote().path == run.path
    assert len(server.received) == calls
    with pytest.raises(ConfigError, match=r"was started with another config(?s:.*)members.net.train.epochs: 2 -> 3"):
        remote("members.net.train.epochs=3")


def corrupt(name, data):
    return data[:-1] + b"?" if name.endswith("weights.safetensors") else data


def test_corrupted_download_is_repeated(server, remote, finished):
    remote()
    complete(server, finished)
    server.faults["output"] = [corrupt] * 44
    run = remote()

    assert run.metrics().ensemble is not None
    names = [body["file"] for name, body in server.received if name == "output"]
    assert names.count("submissions/tiny/net/fold_0/weights.safetensors") == 2
    assert names.count("submissions/tiny/config.yaml") == 2  # whose length the client compares


def test_output_that_stays_corrupted_is_an_error_and_leaves_no_run(server, remote, finished, folder):
    remote()
    complete(server, finished)
    server.faults["output"] = [corrupt] * 1000
    with pytest.raises(
        KaggleError, match=r"^6 files of .* are missing or corrupted, for example submissions/tiny/net/"
    ):
        remote()

    assert not (folder / "submissions" / "tiny").exists()


def test_broken_connections_of_the_output_are_retried(server, remote, finished):
    remote()
    complete(server, finished)
    server.faults["output"] = [lambda _name, data: data, lambda *_: None, lambda *_: None]
    server.faults["ListKernelSessionOutput"] = [Response(500), Response(close=True)]

    assert remote().submission.exists()


@pytest.mark.parametrize("name", ["submissions/tiny/../../x", "/etc/passwd", "submissions/other/config.yaml"])
def test_file_outside_of_the_run_is_rejected(server, remote, finished, folder, name):
    remote()
    complete(server, finished, files={name: "0" * 64})
    with pytest.raises(KaggleError, match=r"has no valid output\.json"):
        remote()

    assert not (folder / "submissions" / "tiny").exists()


def test_output_of_another_run_is_rejected(server, remote, finished):
    remote()
    complete(server, finished, session=2)
    with pytest.raises(KaggleError, match=r"has the output of session 2 of the run tiny$"):
        remote()


def test_time_limit_pushes_the_next_session_with_the_output_mounted(server, remote, finished):
    remote("members.net.train.epochs=2")
    complete(server, finished, is_complete=False)
    assert remote(minutes=60) is None
    first, second = pushed(server)
    settings = [read_settings(body["text"]) for body in (first, second)]

    assert second["slug"] == f"{NAME}-session-2"
    assert second["kernelDataSources"] == [NAME]
    assert settings[1] == replace(settings[0], session=2, minutes=60, push=settings[1].push)
    remote()
    assert len(pushed(server)) == 2


def test_fetch_needs_a_kernel_that_is_complete(server, client, remote, finished):
    run = find_config(Path("tiny.yaml"), None, ()).run
    with pytest.raises(RunError, match=r"Kaggle has no kernel of the run tiny; python run.py remote --run tiny"):
        fetch_remote(CIFAR10, run, client)
    remote()
    with pytest.raises(RunError, match=r"is queued; without --fetch the command waits"):
        fetch_remote(CIFAR10, run, client)
    complete(server, finished, is_complete=False)
    with pytest.raises(RunError, match=r"has reached its time limit; without --fetch"):
        fetch_remote(CIFAR10, run, client)
    shutil.rmtree(server.kernels.kernels[NAME].working)
    complete(server, finished)
    assert fetch_remote(CIFAR10, run, client).submission.exists()
    assert fetch_remote(CIFAR10, run, client).submission.exists()


def test_run_that_was_made_here_is_not_replaced(server, remote, folder):
    (folder / "submissions" / "tiny").mkdir(parents=True)
    with pytest.raises(
        RunError, match=r"^submissions/tiny exists and was not fetched from Kaggle; choose another --run$"
    ):
        remote()

    assert server.received == []


def test_other_config_is_an_error_with_the_differences(server, remote):
    remote()
    with pytest.raises(ConfigError, match=r"(?s)pushed with another config.*members.net.train.epochs: 2 -> 3"):
        remote("members.net.train.epochs=3")
    remote(is_config_given=False)

    assert len(pushed(server)) == 1


def test_kernel_of_something_else_is_not_replaced(server, remote):
    remote()
    server.kernels.kernels[NAME].request["text"] = "print(1)"
    with pytest.raises(KaggleError, match="is not of this project's run tiny, or of another version"):
        remote()

    assert len(pushed(server)) == 1


def test_weights_of_this_machine_are_rejected(server, remote):
    with pytest.raises(ConfigError, match=r"members.net.model.weights is .*, a file of this machine; save it in a"):
        remote("members.net.model={name: resnet18, weights: ~/w.safetensors}")
    assert server.received == []


def test_mounted_weights_and_the_place_of_the_cache(server, remote):
    remote("members.net.model={name: resnet18, weights: /kaggle/input/w/w.safetensors}", "images.cache_dir=/somewhere")
    settings = read_settings(pushed(server)[0]["text"])

    assert "/kaggle/input/w/w.safetensors" in settings.config
    assert "/somewhere" not in settings.config


def test_trackers_that_need_credentials_are_left_out(server, remote, caplog):
    remote("log.trackers=[csv,tensorboard,wandb]")
    settings = read_settings(pushed(server)[0]["text"])

    assert "wandb" not in settings.config
    assert "tensorboard" in settings.config
    assert "log.trackers in the kernel: csv, tensorboard, as it has no credentials for others" in caplog.text


def test_access_denied_to_status_and_output_is_one_line(server, client):
    with pytest.raises(KaggleError, match=rf"^Kaggle gives no access to the kernel {URL}$"):
        client.kernel_status("cifar-10-run-tiny")


def test_names_of_kernels_are_short_and_different():
    names = ["quick", "Quick", "quick.1", "quick-1", "quick-session-2", "x" * 64, "x" * 63]
    kernels = [kernel_name(CIFAR10, name, session) for name in names for session in (1, 2)]

    assert kernels[:2] == ["cifar-10-run-quick", "cifar-10-run-quick-session-2"]
    assert len(set(kernels)) == len(kernels)
    assert all(5 <= len(name) <= 50 for name in kernels)


def test_config_survives_the_source_of_a_kernel(server, remote):
    remote()
    wanted = find_config(Path("tiny.yaml"), None, ())
    settings = read_settings(pushed(server)[0]["text"])

    assert settings.config == override_config(wanted.config, ()).to_yaml()
    assert (settings.run, settings.session, settings.config_name, settings.minutes) == ("tiny", 1, "tiny", 690.0)
