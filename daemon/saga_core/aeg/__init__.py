"""Agent Execution Graphs: what workflows of a kind do, learned while they run, or declared."""

from saga_core.aeg.learner import Learner
from saga_core.aeg.scores import ProgramScores, Score, Scores
from saga_core.aeg.words import ANSWER, UNKNOWN, Declared, Estimate, Hints, Kind

__all__ = [
    "ANSWER",
    "UNKNOWN",
    "Declared",
    "Estimate",
    "Hints",
    "Kind",
    "Learner",
    "ProgramScores",
    "Score",
    "Scores",
]
