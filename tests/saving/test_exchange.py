"""Saving over a directory where two cannot take each other's name in one step."""

import os
import sys

import pytest

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
