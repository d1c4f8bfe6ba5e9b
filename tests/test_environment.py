import json
import platform
from importlib.metadata import version

from conftest import ROOT

from pipeline.runs.environment import describe_environment


def test_environment_has_versions_and_no_paths():
    environment = describe_environment(2, "cpu", autocast=True)
    text = json.dumps(environment)

    assert environment["python"] == platform.python_version()
    assert environment["packages"]["torch"] == version("torch")
    assert (environment["num_threads"], environment["device"], environment["precision"]) == (2, "cpu", "bf16")
    assert str(ROOT) not in text
