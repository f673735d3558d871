"""Saving over a directory where two cannot take each other's name in one step."""

import errno
import os
import stat
import sys

import joblib
import numpy as np
import pytest

import skembft
from skembft import AdapterFinetuner


@pytest.fixture
def saved(static_model, pairs, tmp_path, monkeypatch):
    """A finetuner, and the directory that it was saved to before."""
    monkeypatch.setattr(sys, "platform", "other")
    finetuner = AdapterFinetuner(static_model, epochs=1, random_state=0).fit(*pairs)
    finetuner.save_pretrained(tmp_path / "model")
    return finetuner, tmp_path / "model"


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_the_new_directory_takes_the_place_of_the_old(saved):
    finetuner, path = saved
    finetuner.set_params(epochs=7).save_pretrained(path)
    assert b"7" in (path / "skembft.json").read_bytes()
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("which", ["old", "new"])
def test_an_interrupt_loses_nothing(saved, monkeypatch, error, done, which):
    """Before or after any of the two renames."""
    finetuner, path = saved
    before, rename, moved = contents(path), os.rename, []

    def interrupted(source, target):
        is_old = str(target).endswith("old")
        here = is_old if which == "old" else bool(moved)
        if is_old:
            moved.append(target)
        if not here:
            return rename(source, target)
        if done:
            rename(source, target)
        monkeypatch.setattr(os, "rename", rename)
        raise error

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(error):
        finetuner.set_params(epochs=7).save_pretrained(path)
    new = done and which == "new"
    assert (contents(path) != before) == new
    assert os.listdir(path.parent) == [path.name]


def test_a_file_system_that_flushes_no_directories(
    static_model, pairs, tmp_path, monkeypatch
):
    """As some network ones: what is written is written."""
    fsync = os.fsync

    def refusing(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    finetuner = AdapterFinetuner(static_model, epochs=1, random_state=0).fit(*pairs)
    for _ in range(2):
        finetuner.save_pretrained(tmp_path / "model")
        skembft.dump(finetuner, tmp_path / "finetuner.joblib")
    expected = finetuner.transform(pairs[0])
    for again in (
        skembft.load(tmp_path / "model"),
        joblib.load(tmp_path / "finetuner.joblib"),
    ):
        np.testing.assert_allclose(again.transform(pairs[0]), expected, atol=1e-6)
