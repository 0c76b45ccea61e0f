"""`manage.py demo --once` on hosts reached over SSH and in containers, as a person runs it."""

import re

import pytest

from tests.acceptance.running import ONCE_WITHIN, Once, run_once

pytestmark = pytest.mark.timeout(2 * ONCE_WITHIN)
SIZE = ("--instances", "6", "--rate", "50")


def check(once: Once, driver: str) -> None:
    """v2 completed, v3-unhealthy was rolled back, the load noticed nothing, nothing is left."""
    assert once.returncode == 0, (once.results, once.said)
    assert once.ready["driver"] == driver
    good, bad = once.results
    assert (good["version"], good["status"], good["touched"]) == ("v2", "completed", 6)
    assert (bad["version"], bad["status"]) == ("v3-unhealthy", "rolled_back")
    assert 1 <= bad["touched"] <= 2
    for result in (good, bad):
        assert result["requests"] > 0
        assert (result["failed_requests"], result["slow_requests"]) == (0, 0)
        assert 1 <= result["max_out"] <= 2
    assert (once.left, once.mounts, once.keys, once.runtime) == ([], [], [], False)


def test_instances_are_updated_over_ssh_unnoticed() -> None:
    """Every host lets the worker in by a key that is gone afterwards, as every process is."""
    once = run_once("--driver", "ssh", *SIZE)
    check(once, "ssh")
    hosts = [log for name, log in once.logs.items() if name.startswith("sshd-")]
    assert len(hosts) > 1
    assert all("Accepted publickey" in log for log in hosts)


def test_containers_are_replaced_unnoticed() -> None:
    """By images made here, on an engine of the demo's own that is gone afterwards."""
    once = run_once("--driver", "docker", *SIZE)
    if once.returncode and (why := re.search(r"CommandError: ((A D|d)ocker.*)", once.said)):
        pytest.skip(f"optional: no Docker engine starts here: {why[1]}")
    check(once, "docker")
    assert once.logs["dockerd.log"]
