"""Modes of the files that are written."""

import os
import sys
from pathlib import Path

import pytest

from skembft import AdapterFinetuner, dump


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_the_umask_is_applied_and_never_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o027)
    calls: list[int] = []
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda mask: (calls.append(mask), 0o027)[1])
            dump(AdapterFinetuner(), tmp_path / "model.joblib")
    finally:
        os.umask(before)
    assert calls == []  # other threads create files meanwhile
    assert (tmp_path / "model.joblib").stat().st_mode & 0o777 == 0o640
