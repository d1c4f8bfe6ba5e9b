"""RunData -> the section with the confusion matrix, whose cells open their images."""

import numpy as np

from pipeline.report.blocks import Gallery, Matrix, Section
from pipeline.report.images import training_image
from pipeline.report.run_data import RunData

NUM_IN_CELL = 16  # images of a cell


def confusion_matrix_section(data: RunData) -> Section:
    """Return the section with the confusion matrix; each cell has its images, the most confident first."""
    class_names, probabilities = data.task.class_names, data.probabilities
    matrix, predicted = np.array(data.ensemble_metrics.confusion_matrix), probabilities.argmax(1)
    cells = {}
    for true, true_name in enumerate(class_names):
        for label, name in enumerate(class_names):
            rows = np.flatnonzero((data.table.labels == true) & (predicted == label))
            if len(rows):
                top = rows[np.argsort(-probabilities[rows, label], kind="stable")][:NUM_IN_CELL]
                title = f"{true_name}, correct" if true == label else f"{true_name} predicted as {name}"
                caption = f"{title}: the {len(top)} most confident of {len(rows):,}"
                images = [training_image(data, int(row), f"{probabilities[row, label]:.3f}") for row in top]
                cells[true, label] = Gallery(caption, images)
    wrong = matrix * (1 - np.eye(len(matrix), dtype=int))
    block = Matrix(
        caption=f"Out of fold, n = {len(predicted):,}: rows are true, columns are predicted, errors are shaded. "
        "Click on a cell to see its images.",
        row_title="true \\ predicted",
        rows=class_names,
        columns=class_names,
        values=[[f"{value:,}" for value in row] for row in matrix],
        shades=(wrong / max(int(wrong.max()), 1)).tolist(),
        images=cells,
    )
    return Section("confusion", "Confusion matrix", [block])
