"""`foreframe data check`: everything that can be wrong with a dataset folder, found in one go."""

from foreframe.data.check.findings import KINDS, CheckConfig, Finding
from foreframe.data.check.folder import check_folder

__all__ = ["KINDS", "CheckConfig", "Finding", "check_folder"]
