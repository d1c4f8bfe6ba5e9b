"""Answers of Kaggle's API -> plain values."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """Status and scores of a submission; None for a score that Kaggle does not show."""

    ref: int
    status: str
    """pending, complete or error."""
    public: float | None
    private: float | None
    reason: str
    """Why a submission has the status error."""


def parse_limits(limits: Any) -> tuple[int, int, int]:
    """Return the number of submissions that are allowed now, of those today, and of all."""
    return int(limits.num_allowed_now or 0), int(limits.num_today or 0), int(limits.num_total or 0)


def parse_score(submission: Any) -> Score:
    """Return the status and scores of a submission."""
    status = submission.status.name.rsplit("_", 1)[-1].lower() if submission.status is not None else "pending"
    public, private = _number(submission.public_score), _number(submission.private_score)
    return Score(int(submission.ref), status, public, private, submission.error_description or "")


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
