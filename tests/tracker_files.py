"""What trackers have written, read back."""

import json
import struct
from collections import defaultdict

BLOCK, HEADER = 32_768, 7  # of LevelDB's log format
FULL, LAST = 1, 4


def load_scalars(folder):
    """Return the scalars in TensorBoard's event files: a list of (step, value) for each tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def load_wandb(folder):
    """Return the runs in wandb's offline directories by their name, those with the same id joined as by a sync."""
    runs = defaultdict(lambda: {"history": [], "summary": {}, "artefacts": []})
    paths = sorted(folder.glob("offline-run-*/*.wandb"), key=lambda path: (path.parent.name, path.stat().st_mtime))
    for path in paths:
        records = list(_wandb_records(path))
        (started,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
        run = runs[started.run_id]
        run |= {"name": started.display_name, "group": started.run_group, "kind": started.job_type}
        run["config"] = {item.key: json.loads(item.value_json) for item in started.config.update}
        for record in records:
            kind = record.WhichOneof("record_type")
            if kind == "history":
                run["history"].append(_values(record.history.item))
            elif kind == "summary":
                run["summary"] |= _values(record.summary.update)
            elif kind == "artifact":
                run["artefacts"] += [entry.path for entry in record.artifact.manifest.contents]
            elif kind == "exit":
                run["exit_code"] = record.exit.exit_code
    return {run["name"]: run for run in runs.values()}


def _values(items):
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _wandb_records(path):
    """Yield the records of a .wandb file, which is in LevelDB's log format; wandb has no public reader."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, part = path.read_bytes(), HEADER, b""
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += HEADER
        part += data[position : position + length]
        position += length
        if kind in (FULL, LAST):
            yield Record.FromString(part)
            part = b""


def load_mlflow(submissions):
    """Return the runs in mlflow.db by their name, each metric as a list of (step, value)."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{submissions.absolute() / 'mlflow.db'}")
    (experiment,) = [found.experiment_id for found in client.search_experiments() if found.name != "Default"]
    runs = client.search_runs([experiment])
    names = [run.info.run_name for run in runs]
    assert len(set(names)) == len(names)
    return {
        run.info.run_name: {
            "id": run.info.run_id,
            "parent": run.data.tags.get("mlflow.parentRunId"),
            "status": run.info.status,
            "params": run.data.params,
            "metrics": {
                name: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            },
            "artefacts": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
        }
        for run in runs
    }
