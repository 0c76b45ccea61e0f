"""Instances from an Ansible inventory: a static file in INI or YAML, or `ansible-inventory --list`.

Read is what a static file says: groups and their children, host ranges such as web[01:20],
variables of hosts and groups in Ansible's order of precedence. Folders (group_vars), templates
and plugins need Ansible itself: what it prints with `ansible-inventory --list` is read too.
"""

import ast
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import yaml

from rollouts.importing_sources import MOST, Json, SourceError, as_name, as_port

HEADER = re.compile(r"\[([^:\[\]\s]+)(?::(children|vars|hosts))?\]")
RANGE = re.compile(r"\[(?:([0-9]+):([0-9]+)|([A-Za-z]):([A-Za-z]))(?::([1-9][0-9]*))?\]")
SSH_PORT = re.compile(r"([^:]+):[0-9]+")  # of a host, where no IPv6 address


@dataclass
class Groups:
    """What an inventory says of its groups and hosts, by their names."""

    hosts: dict[str, list[str]] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)
    group_vars: dict[str, Json] = field(default_factory=dict)
    host_vars: dict[str, Json] = field(default_factory=dict)

    def add(self, group: str) -> None:
        """Know `group`, with nothing in it so far."""
        self.hosts.setdefault(group, [])
        self.children.setdefault(group, [])
        self.group_vars.setdefault(group, {})

    def add_hosts(self, group: str, pattern: str, variables: Mapping[str, Any]) -> None:
        """Put the hosts of `pattern` into `group`."""
        for name in expand(pattern):
            self.hosts[group].append(name)
            self.host_vars.setdefault(name, {}).update(variables)
        if len(self.host_vars) > MOST:
            raise SourceError(f"it has more than {MOST} hosts")

    def within(self, group: str) -> list[str]:
        """Return the hosts of `group` and of its children, each once."""
        found: dict[str, None] = {}
        waiting, seen = [group], {group}
        while waiting:
            one = waiting.pop(0)
            found |= dict.fromkeys(self.hosts.get(one, ()))
            new = [each for each in self.children.get(one, ()) if each not in seen]
            seen |= set(new)
            waiting = new + waiting
        return list(found)

    def variables(self) -> dict[str, Json]:
        """Return the variables of each host: its own, else a child group's, else a parent's."""
        depths = self._depths()
        merged: dict[str, Json] = {name: {} for name in self.host_vars}
        for group in sorted(self.hosts, key=lambda name: (depths.get(name, 1), name)):
            for host in self.host_vars if group == "all" else self.within(group):
                merged[host] |= self.group_vars[group]
        return {host: merged[host] | own for host, own in self.host_vars.items()}

    def _depths(self) -> dict[str, int]:
        """Return how far below `all` each group is at the most."""
        depths = {"all": 0}
        for _ in self.hosts:
            before = dict(depths)
            for group, children in self.children.items():
                for child in children:
                    depths[child] = max(depths.get(child, 1), depths.get(group, 1) + 1)
            if depths == before:
                break
        return depths


def instances(text: str, group: str, port: int | None, port_var: str) -> list[Json]:
    """Return what is in `group`; raise SourceError.

    The port is that of the variable `port_var` of the host, else `port`: Ansible's own
    `ansible_port` is that of SSH.
    """
    groups = _read(text)
    if group not in groups.hosts and group not in {"all", "ungrouped"}:
        known = ", ".join(sorted(groups.hosts))
        raise SourceError(f"there is no group {group}; there are: {known or 'none'}")
    variables = groups.variables()
    hosts = list(groups.host_vars) if group == "all" else groups.within(group)
    return [_instance(name, variables[name], port, port_var) for name in hosts]


def _instance(name: str, variables: Json, port: int | None, port_var: str) -> Json:
    address = variables.get("ansible_host") or name
    if not isinstance(address, str) or "{{" in address:
        raise SourceError(f"{name}: ansible_host {address!r} is no plain text: name the address")
    told = variables.get(port_var, port) if port_var else port
    return {"name": as_name(name), "host": address, "port": as_port(told, name)}


def expand(pattern: str) -> list[str]:
    """Return the names that a pattern such as web[01:20] stands for; raise SourceError."""
    if SSH_PORT.fullmatch(RANGE.sub("", pattern)):
        pattern = pattern.rpartition(":")[0]
    parts: list[list[str]] = []
    at, count = 0, 1
    for match in RANGE.finditer(pattern):
        values = list(_range(match))
        count *= len(values)
        if not 1 <= count <= MOST:
            raise SourceError(f"{pattern} stands for {count} hosts; 1 to {MOST} can be read")
        parts += [[pattern[at : match.start()]], values]
        at = match.end()
    parts.append([pattern[at:]])
    return ["".join(each) for each in product(*parts)]


def _range(match: re.Match[str]) -> Iterator[str]:
    step = int(match[5] or 1)
    if match[3]:
        yield from map(chr, range(ord(match[3]), ord(match[4]) + 1, step))
        return
    width = len(match[1]) if match[1].startswith("0") else 0
    numbers = range(int(match[1]), int(match[2]) + 1, step)
    if len(numbers) > MOST:
        raise SourceError(f"{match[0]} stands for more than {MOST} hosts")
    yield from (f"{number:0{width}}" for number in numbers)


# --- the three forms of a file


class _Loader(yaml.SafeLoader):
    """Ansible's own tags, such as !vault, stand for nothing that is read here."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


def _read(text: str) -> Groups:
    if text.lstrip().startswith("{"):
        return _from_list(text)
    if any(HEADER.fullmatch(line.strip()) for line in text.splitlines()):
        return _from_ini(text)
    try:
        document = yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise SourceError(f"it is neither INI nor YAML: {error}") from error
    return _from_yaml(document) if isinstance(document, dict) else _from_ini(text)


def _from_list(text: str) -> Groups:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"it is no JSON: {error}") from error
    groups = Groups()
    hostvars = _mapping(_mapping(document.pop("_meta", {}), "_meta").get("hostvars"), "hostvars")
    for name, raw in document.items():
        entry = _mapping({"hosts": raw} if isinstance(raw, list) else raw, name)
        groups.add(name)
        groups.group_vars[name] |= _mapping(entry.get("vars"), f"{name}.vars")
        groups.children[name] += _texts(entry.get("children"), f"{name}.children")
        for host in _texts(entry.get("hosts"), f"{name}.hosts"):
            groups.hosts[name].append(host)
            groups.host_vars[host] = _mapping(hostvars.get(host), host)
    if len(groups.host_vars) > MOST:
        raise SourceError(f"it has more than {MOST} hosts")
    return groups


def _from_yaml(document: Mapping[Any, Any]) -> Groups:
    groups = Groups()
    waiting: list[tuple[str, Any]] = [(str(name), raw) for name, raw in document.items()]
    seen: set[tuple[str, int]] = set()
    while waiting:
        name, raw = waiting.pop(0)
        groups.add(name)
        if (name, id(raw)) in seen:  # an anchor that is repeated, maybe within itself
            continue
        seen.add((name, id(raw)))
        entry = _mapping(raw, name)
        groups.group_vars[name] |= _mapping(entry.get("vars"), f"{name}.vars")
        for pattern, variables in _mapping(entry.get("hosts"), f"{name}.hosts").items():
            groups.add_hosts(name, str(pattern), _mapping(variables, str(pattern)))
        children = _mapping(entry.get("children"), f"{name}.children")
        groups.children[name] += map(str, children)
        waiting += [(str(child), inner) for child, inner in children.items()]
        if len(waiting) > MOST:
            raise SourceError(f"it has more than {MOST} groups")
    return groups


def _from_ini(text: str) -> Groups:
    groups = Groups()
    group, kind = "ungrouped", "hosts"
    groups.add(group)
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if header := HEADER.fullmatch(line.partition(" #")[0].rstrip()):
            group, kind = header[1], header[2] or "hosts"
            groups.add(group)
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise SourceError(f"line {number}: {error}") from error
        if kind == "vars":
            groups.group_vars[group] |= dict([_assigned(line.partition(" #")[0], number)])
        elif kind == "children":
            groups.add(words[0])
            groups.children[group].append(words[0])
        else:
            groups.add_hosts(group, words[0], dict(_assigned(word, number) for word in words[1:]))
    return groups


def _assigned(text: str, number: int) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name:
        raise SourceError(f"line {number}: {text[:64]!r} must be NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value


def _mapping(raw: Any, where: str) -> dict[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise SourceError(f"{where} must map names to what they are")
    return {str(key): value for key, value in raw.items()}


def _texts(raw: Any, where: str) -> list[str]:
    if raw is None:
        return []
    if not isinstance(raw, list) or not all(isinstance(each, str) for each in raw):
        raise SourceError(f"{where} must be a list of names")
    return raw
