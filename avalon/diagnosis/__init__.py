"""Seeing what happens: a step computed in every way, its time, its first NaN, this machine."""

from avalon.diagnosis.check import check as check
from avalon.diagnosis.nans import debug_nans as debug_nans
from avalon.diagnosis.profiling import profile as profile
