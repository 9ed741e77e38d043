"""The report of simulated runs as one HTML file: `report_data` gathers, `render` writes."""

from saga_sim.report.adapter import report_data, trace_source, trace_sources
from saga_sim.report.data import ReportData
from saga_sim.report.page import render
from saga_sim.report.watch import Watch

__all__ = ["ReportData", "Watch", "render", "report_data", "trace_source", "trace_sources"]
