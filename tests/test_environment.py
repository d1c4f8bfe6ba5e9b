import json
import platform
from importlib.metadata import version

from conftest import ROOT

from pipeline.runs.environment import describe_environment


def test_environment_has_versions_and_no_paths():
    environment = describe_environment("cpu", autocast=True)
    text = json.dumps(environment)

    assert environment["python"] == platform.python_version()
    assert environment["packages"]["torch"] == version("torch")
    assert (environment["device"], environment["precision"]) == ("cpu", "bf16")
    assert str(ROOT) not in text
