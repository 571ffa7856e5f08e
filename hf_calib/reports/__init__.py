"""Diagrams, tables and pages. matplotlib is imported when a diagram is drawn."""

from .comparison import Comparison as Comparison
from .decisions import DecisionMeasurement as DecisionMeasurement
from .measurement import Measurement as Measurement
from .paired import differences as differences
from .paired import sharpening as sharpening
from .reliability import ReliabilityDisplay as ReliabilityDisplay
from .table import render_table as render_table
