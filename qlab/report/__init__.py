"""One HTML file that says what a configuration does to a network, and opens anywhere."""

from qlab.report.page import Reported, html_report

__all__ = ["Reported", "html_report"]
