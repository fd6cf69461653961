"""Measures by pictures: how much of a style arrives and how much of the subject is kept, at each strength.

``python -m lab judge`` trains what judges, ``python -m lab look`` draws and stores, ``python -m lab seen`` writes docs/seen.md.
``python -m lab blind`` draws pairs for readers, who tell whether the measure agrees with the eye. ``python -m lab grids`` draws
the grids that are shown there.
"""

from lab.eye.again import compared, redraw
from lab.eye.blind import blind, grids
from lab.eye.judge import train_judges
from lab.eye.looking import FOLDER, look
from lab.eye.page import seen
from lab.eye.records import records

__all__ = ["FOLDER", "blind", "compared", "grids", "look", "records", "redraw", "seen", "train_judges"]
