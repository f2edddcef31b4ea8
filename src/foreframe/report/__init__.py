"""The page a person looks at: scores with their receipts, learning curves, and predicted clips beside the truth."""

from foreframe.report.page import write_report

__all__ = ["write_report"]
