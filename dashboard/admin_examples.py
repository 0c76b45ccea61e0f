"""Settings of every kind of driver and balancer that can be copied, and the keys of a policy."""

import json
from collections.abc import Mapping
from typing import Any

from django.utils.html import format_html, format_html_join

from rollouts.policy import KNOBS

SSH = {"user": "deploy", "key": "/etc/lockgate/id_ed25519"}
HAPROXY = {"kind": "haproxy", "addresses": ["unix:/run/haproxy/admin.sock"], "backend": "app"}
DRIVERS: Mapping[str, dict[str, Any]] = {
    "command": {"kind": "command", "update": ["/opt/shop/deploy", "{instance}", "{version}"]},
    "docker": {
        "kind": "docker",
        "image": "registry.example.com/shop:{version}",
        "engine": "ssh://{hostname}",
        "ssh": SSH,
    },
    "ssh": {"kind": "ssh", "update": ["/opt/shop/deploy", "{version}"], "ssh": SSH},
    "webhook": {
        "kind": "webhook",
        "url": "https://{hostname}:9443/deploy",
        "secret_env": "SHOP_DEPLOY_SECRET",
        "version_url": "https://{hostname}:9443/version",
    },
}
BALANCERS: Mapping[str, dict[str, Any]] = {
    "haproxy": HAPROXY,
    "nginx": {
        "kind": "nginx",
        "upstream": "shop",
        "file": "/etc/nginx/lockgate/shop.conf",
        "test": ["sudo", "-n", "/usr/sbin/nginx", "-t"],
        "reload": ["sudo", "-n", "/usr/sbin/nginx", "-s", "reload"],
    },
    "aws": {
        "kind": "aws",
        "region": "eu-central-1",
        "target_group": "arn:aws:elasticloadbalancing:eu-central-1:123456789012:"
        "targetgroup/shop/0123456789abcdef",
    },
    "command": {
        "kind": "command",
        "status": ["/opt/shop/pool", "status"],
        "drain": ["/opt/shop/pool", "drain", "{server}"],
        "ready": ["/opt/shop/pool", "ready", "{server}"],
    },
    "chain": {
        "kind": "chain",
        "balancers": [
            {"kind": "haproxy", "addresses": ["edge.example.com:9999"], "backend": "shop"},
            HAPROXY,
        ],
    },
    "none": {
        "kind": "none",
        "ready_path": "/ready",
        "drain": {"path": "/drain"},
        "undrain": {"path": "/undrain"},
    },
}


def folded(title: str, examples: Mapping[str, dict[str, Any]]) -> str:
    """Return the examples as a list that opens."""
    rows = ((kind, json.dumps(one, indent=2)) for kind, one in examples.items())
    items = format_html_join("", "<h3>{}</h3><pre>{}</pre>", rows)
    return format_html("<details><summary>{}</summary>{}</details>", title, items)


def policy_keys() -> str:
    """Return every key of a policy with its default and unit, as a table that opens."""
    rows = ((knob.key, json.dumps(knob.default), knob.unit, knob.help) for knob in KNOBS)
    cells = "<tr><th scope=row><code>{}</code></th><td><code>{}</code> {}</td><td>{}</td></tr>"
    return format_html(
        "<details><summary>Keys of a policy, with defaults and units</summary>"
        '<div class="wide"><table><thead><tr><th scope="col">key</th><th scope="col">default</th>'
        '<th scope="col">what it does</th></tr></thead><tbody>{}</tbody></table></div></details>',
        format_html_join("", cells, rows),
    )
