"""docs/configuration.md is what the settings say, and settings may come from files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.settings import Settings as AllSettings
from tools.describe_settings import SANDBOX, TRACES, describe
from weft import CannotStart, ServiceSettings

ROOT = Path(__file__).resolve().parents[2]
URL = "sqlite:////tmp/from-a-file.db"


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which settings are looked for."""
    monkeypatch.setenv("WEFT_SECRETS_DIR", str(tmp_path))
    monkeypatch.delenv("WEFT_DATABASE_URL", raising=False)
    return tmp_path


def variables_in(folder: str, pattern: str) -> set[str]:
    return {found for file in (ROOT / folder).rglob("*.py") for found in re.findall(pattern, file.read_text())}


def test_the_page_about_settings_is_what_make_docs_writes() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == describe(), "run: make docs"


def test_what_the_sandbox_reads_is_described() -> None:
    assert variables_in("sandbox", r"SANDBOX_[A-Z_]+") == {row.variable for row in SANDBOX}


def test_every_setting_says_what_it_means() -> None:
    assert not re.findall(r"^\| `\w+` .*\| (?:\*\*secret\*\* )?\|$", describe(), re.MULTILINE)


def test_every_variable_of_traces_that_the_code_names_is_described() -> None:
    assert variables_in("weft", r"OTEL_[A-Z_]+[A-Z]") <= {row.variable for row in TRACES}


def test_a_setting_may_be_in_a_file_of_its_name(secrets: Path) -> None:
    (secrets / "WEFT_DATABASE_URL").write_text(f"{URL}\n")
    assert ServiceSettings().database_url == URL


def test_the_environment_goes_before_the_files(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "WEFT_DATABASE_URL").write_text(URL)
    monkeypatch.setenv("WEFT_DATABASE_URL", "sqlite:////tmp/from-the-environment.db")
    assert ServiceSettings().database_url == "sqlite:////tmp/from-the-environment.db"


def test_a_folder_of_secrets_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEFT_SECRETS_DIR", str(tmp_path / "missing"))
    with pytest.raises(CannotStart, match="missing"):
        ServiceSettings(database_url=URL)


def test_a_secret_that_cannot_be_read_is_named(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "WEFT_DATABASE_URL").write_text(URL)
    (secrets / "somebody_elses").write_text("x")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root could read it whatever its mode
    with pytest.raises(CannotStart, match="WEFT_DATABASE_URL cannot be read: let uid"):
        ServiceSettings()


@pytest.mark.parametrize("url", ["nats://weft:s3cr/et@nats:4222", "nats://weft:s3cret@:4222", "nats://h:4222,[s3cr"])
def test_what_is_wrong_with_a_brokers_url_is_said_without_its_password(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ServiceSettings(database_url=URL, nats_url=url)
    assert "s3cr" not in refused.value.errors()[0]["msg"]


def test_where_one_process_hosts_all_services_their_databases_may_be_in_files_too(
    secrets: Path, tmp_path: Path
) -> None:
    (secrets / "WEFT_USER_DATABASE_URL").write_text(URL)
    assert AllSettings(data=tmp_path).of("user")["database_url"] == URL
