"""Settings refuse to start on a missing or wrong value, and say what to set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOOD = {
    "SECRET_KEY": "x" * 40,
    "DATABASE_URL": "postgresql://lockgate:pw@db:5432/lockgate",
    "REDIS_URL": "redis://redis:6379/0",
    "ALLOWED_HOSTS": "lockgate.example.com",
}


def load(**changes: str | None) -> subprocess.CompletedProcess[str]:
    """Import the settings in a fresh process, with `changes` (None: not set) to good values."""
    values = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return subprocess.run(
        [sys.executable, "-c", "import dashboard.settings"],
        cwd=ROOT,
        env={**kept, **values},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_good_values_start() -> None:
    """Nothing else is required."""
    done = load()
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", list(GOOD))
def test_a_missing_value_is_named_with_what_to_set(name: str) -> None:
    """One sentence: the variable, and an example of what is right."""
    done = load(**{name: None})
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert f"{name} is not set: set it to" in last


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SECRET_KEY", "short", "SECRET_KEY is too short: set it to at least 32"),
        (
            "DATABASE_URL",
            "sqlite:///x.db",
            "keeps its truth in PostgreSQL; set it to postgresql://",
        ),
        ("DATABASE_URL", "postgresql://host", "DATABASE_URL names no database"),
        ("REDIS_URL", "localhost:6379", "REDIS_URL is wrong: set it to redis://"),
        ("DEBUG", "perhaps", "DEBUG is wrong: set it to true or false"),
        ("DATABASE_POOL", "many", "DATABASE_POOL is wrong: set it to a number"),
        ("CSRF_TRUSTED_ORIGINS", "example.com", "'example.com' lacks its scheme"),
        ("INSTANCE_NETWORKS", "10.0.0.0/99", "INSTANCE_NETWORKS is wrong"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(name: str, value: str, words: str) -> None:
    """It does not start with a guess."""
    done = load(**{name: value})
    assert done.returncode != 0
    assert words in done.stderr.strip().splitlines()[-1]
