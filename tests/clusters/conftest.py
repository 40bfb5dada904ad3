from __future__ import annotations

from pathlib import Path

import pytest
from cluster_file_cases import Checker, checker


@pytest.fixture
def look(tmp_path: Path) -> Checker:
    return checker(tmp_path)
