"""`dsrna report`: one self-contained HTML file of a run, or of several side by side."""

from robust_nas.reporting.report import ReportResult, run_report
