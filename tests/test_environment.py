import json
import platform
from importlib.metadata import version

from conftest import ROOT

from pipeline.runs.environment import describe_environment


def test_it_tells_versions_and_names_no_path():
    found = describe_environment(2, "cpu", autocast=True)
    text = json.dumps(found)

    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == version("torch")
    assert (found["num_threads"], found["device"], found["precision"]) == (2, "cpu", "bf16")
    assert str(ROOT) not in text
