"""What every command does with signals and with Python itself."""

from __future__ import annotations

import gc
import importlib
import sys

import pytest

from rankdistill.shell import Terminated, importing, interruptions_kept


@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_imported_is_not_looked_through_for_garbage(tmp_path, monkeypatch, enabled):
    (tmp_path / "imported_here.py").write_text("KEPT = []\nKEPT.append(KEPT)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "imported_here", raising=False)
    if not enabled:  # whoever has turned it off has a reason
        gc.disable()
    try:
        with importing():
            kept = importlib.import_module("imported_here").KEPT
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
        assert not any(found is kept for found in gc.get_objects())  # those that are looked through
        mine: list = []
        with importing():
            importlib.import_module("imported_here")  # which is there by now
        assert any(found is mine for found in gc.get_objects())
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Terminated])
def test_an_interruption_below_other_errors_is_what_is_raised(kind):
    with pytest.raises(kind) as raised, interruptions_kept():
        try:
            try:
                raise kind
            finally:
                raise RuntimeError("of the clean-up")
        except RuntimeError as error:
            raise ValueError("the model cannot be loaded") from error
    assert type(raised.value) is kind and isinstance(raised.value.__cause__, ValueError)


def test_an_error_of_its_own_stays_one():
    with pytest.raises(ValueError, match="its own"), interruptions_kept():
        try:
            raise RuntimeError
        except RuntimeError as error:
            raise ValueError("its own") from error


def test_a_chain_of_errors_may_be_a_circle():
    first, second = ValueError("first"), RuntimeError("second")
    first.__cause__, second.__context__ = second, first
    with pytest.raises(ValueError, match="first"), interruptions_kept():
        raise first
