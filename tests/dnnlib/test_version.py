"""The version of the project."""

from __future__ import annotations

from pathlib import Path

from dnnlib import version


def test_a_checkout_has_the_version_of_its_pyproject():
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{version.project_version()}"\n' in text


def test_elsewhere_the_installed_package_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(version, "__file__", str(tmp_path / "dnnlib" / "version.py"))
    monkeypatch.setattr(version.importlib.metadata, "version", lambda name: f"9.8 of {name}")
    assert version.project_version() == "9.8 of inr-gan"


def test_code_that_was_copied_somewhere_has_no_version(tmp_path, monkeypatch):
    monkeypatch.setattr(version, "__file__", str(tmp_path / "dnnlib" / "version.py"))
    monkeypatch.setattr(version, "_DISTRIBUTION", "there-is-no-such-package")
    assert version.project_version() == "unknown"
