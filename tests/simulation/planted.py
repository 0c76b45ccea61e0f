"""Planted bugs: wrong engines, each of which the simulation has to catch; see `mutants`."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A bug: in `module` each `old` becomes `new`. `fleet` is where it is looked for first."""

    name: str
    module: str
    fleet: str
    edits: Sequence[tuple[str, str]]


def _mutant(name: str, module: str, fleet: str, *edits: tuple[str, str]) -> Mutant:
    return Mutant(name, f"rollouts.{module}", fleet, edits)


MUTANTS: tuple[Mutant, ...] = (
    _mutant(
        "acts on the balancer without the lease",
        "rotation",
        "two",
        ("await self._lease.hold(BALANCER_DEADLINE)", "pass"),
    ),
    _mutant(
        "takes the lease for longer than it was granted",
        "lease",
        "two",
        ("return 0.0 if self._lost else self._until - self._clock()", "return SECONDS"),
    ),
    _mutant(
        "lets a driver go on though the lease is over",
        "change",
        "long updates",
        (
            "lambda output: give(instance, version, output, left)",
            "lambda output: give(instance, version, output, lambda: 60.0)",
        ),
        ("(spare := ports.lease.left() - DRIVER_ENDS_BELOW) > 0", "(spare := 60.0) > 0"),
    ),
    _mutant(
        "plans the batches anew",
        "engine",
        "mixed",
        ("for name in step.targets\n", "for name in [t.instance.name for t in rollout.targets]\n"),
    ),
    _mutant(
        "passes the gate before the batch is verified",
        "engine",
        "two",
        (
            '        tasks: Tasks = {}\n        told = ""\n',
            '        tasks: Tasks = {}\n        told = ""\n'
            '        await self._journal.step(cursor + 1, None, "done, surely")\n',
        ),
    ),
    _mutant(
        "enables before it verifies",
        "change",
        "two",
        (
            "            return False\n        await self._put_back(*await self._verify())",
            "            return False\n        await self._put_back('', ''); await self._verify()",
        ),
    ),
    _mutant(
        "drains beyond the limit on the way back",
        "verdicts",
        "bad in the end",
        (
            "    limit = strategies.limit_of(rollout.policy, rollout.size)\n    admitted",
            "    limit = rollout.size if rollout.going_back else "
            "strategies.limit_of(rollout.policy, rollout.size)\n    admitted",
        ),
    ),
    _mutant(
        "forgets the cancel",
        "verdicts",
        "two",
        ("if rollout.wish is not None and rollout.wish.ends:", "if False:"),
    ),
    _mutant(
        "counts a lost answer as a failure",
        "rotation",
        "two",
        (
            "        except BalancerUnreachable:\n            away_since",
            "        except BalancerUnreachable:\n            raise\n            away_since",
        ),
    ),
    _mutant(
        "believes the driver",
        "change",
        "lying driver",
        ("wanted = self._version if checks else None", "wanted = None"),
    ),
    _mutant(
        "updates with sessions open",
        "change",
        "stubborn sessions",
        ("is ServerState.READY or server.sessions != 0:", "is ServerState.READY:"),
    ),
    _mutant(
        "takes sessions that nobody counts for none",
        "change",
        "uncounted sessions",
        ("or server.sessions != 0:", "or server.sessions:"),
    ),
    _mutant(
        "lets go of the way back before the end",
        "engine",
        "two",
        (
            "                    await self._journal.step(cursor + 1, None, _batch_words(",
            "                    await self._everywhere.let_go(rollout)\n"
            "                    await self._journal.step(cursor + 1, None, _batch_words(",
        ),
    ),
    _mutant(
        "never cuts a session",
        "change",
        "stubborn sessions",
        ("elif loop.time() >= deadline:", "elif False:"),
        ("left = max(0.0, deadline - loop.time())", "left = 1.0"),
    ),
    _mutant(
        "leaves the balancer with what it forgot",
        "rotation",
        "no way back",
        (
            "self._steer_again([one for one in up if one not in quiet], self._out",
            "self._steer_again([], set()",
        ),
    ),
    _mutant(
        "leaves drained what an older state of the balancer drained",
        "rotation",
        "two",
        ("self._steer_again(drained, self._in, ready)", "self._steer_again((), self._in, ready)"),
    ),
    _mutant(
        "forgets whom its predecessor held out",
        "engine",
        "no way back",
        ("if target.kept_out:", "if False:"),
    ),
    _mutant(
        "counts only what is drained, not what is sick",
        "planning",
        "sick meanwhile",
        ("down = set(unhealthy)", "down = set()"),
    ),
    _mutant(
        "does not count who is left as it is",
        "planning",
        "some alone",
        ("in rollout.targets), *rollout.others):", "in rollout.targets),):"),
    ),
    _mutant(
        "puts instances of two zones into one batch",
        "strategies",
        "bad hosts in zones",
        ("groupby(ordered, lambda one: zone_of(one.instance, policy))", "[('', ordered)]"),
    ),
    _mutant(
        "goes on to the next zone before the one under way is done",
        "strategies",
        "zones of a canary",
        (
            "key=lambda one: (zones.index(zone_of(one.instance, policy)), not one.out)",
            "key=lambda one: not one.out",
        ),
    ),
    _mutant(
        "goes back in all zones at once",
        "planning",
        "bad hosts in zones",
        ("return zone_of(target.instance, rollout.policy)", "return ''"),
    ),
    _mutant(
        "takes all back to one version",
        "facts",
        "mixed",
        ("return target.old_version if", "return self.targets[0].old_version if"),
    ),
    _mutant(
        "trusts an update whose end nobody saw",
        "change",
        "two",
        (
            "checked = self._target.status is TargetStatus.HEALTH_CHECKING",
            "checked = self._target.status is not TargetStatus.PENDING",
        ),
    ),
    _mutant(
        "is content with one good answer",
        "verdicts",
        "healthy for long",
        ("if last.at - run[0].at >= policy.min_healthy_time:", "if True:"),
    ),
    _mutant(
        "leaves a driver running after a cancel",
        "change",
        "two",
        (
            "            task.cancel()\n            await asyncio.wait({task})\n",
            "            pass\n",
        ),
        (
            "        else:\n            task.exception()",
            "        elif task.done():\n            task.exception()",
        ),
    ),
    _mutant(
        "acts first and writes it down later",
        "change",
        "two",
        ("checking = self._ports.journal.target(", "checking = (lambda *_: asyncio.sleep(0))("),
    ),
    _mutant(
        "ends with an instance half done",
        "engine",
        "stuck",
        (
            "            if target.status in IN_FLIGHT:\n                name",
            "            if False:\n                name",
        ),
    ),
    _mutant(
        "parks and is never woken",
        "engine",
        "parks",
        (
            "return await self._park(until, rollout)",
            "return await self._park(None, rollout)",
        ),
    ),
    _mutant(
        "goes on telling the balancer while it gives the deployment up",
        "engine",
        "canary with errors",
        (
            "        await end(self._following)\n        parked",
            "        parked",
        ),
    ),
    _mutant(
        "leaves the weight short of the whole",
        "change",
        "ramps",
        ("range(1, SLOW_START_STEPS + 1)", "range(1, SLOW_START_STEPS)"),
    ),
    _mutant(
        "rolls a rollback back",
        "verdicts",
        "old version sick",
        ("    if rollout.going_back:\n        return _stuck_back(rollout, now)\n", ""),
    ),
    _mutant(
        "gives the new version on after a failure",
        "verdicts",
        "bad",
        ("        reason = trouble(rollout, now)\n", "        reason = None\n"),
    ),
    _mutant(
        "shifts before the slot is whole",
        "strategies",
        "bad slot",
        ("    if policy.approve:", "    steps.insert(3, Shift(50, old))\n    if policy.approve:"),
    ),
    _mutant(
        "updates the old slot",
        "strategies",
        "blue and green",
        ("idle = [one for one in observed if one.instance.slot != live]", "idle = list(observed)"),
    ),
    _mutant(
        "keeps no old slot warm",
        "strategies",
        "blue and green",
        ("    if policy.keep_old:", "    if False:"),
    ),
    _mutant(
        "retires the old slot though the new one lost its weight",
        "shifting",
        "retired slot",
        ("if not all(one is not None and one.weight for one in new):", "if False:"),
    ),
    _mutant(
        "goes back to a slot that is retired",
        "shifting",
        "retired slot",
        ("if rollout.going_back and any(isinstance(one, Retire)", "if False and any(one"),
    ),
    _mutant(
        "enters with the full weight",
        "weights",
        "canary",
        ("return min(parted[server], _room(", "return max(full[server] * scale, _room("),
    ),
    _mutant(
        "enters as if the old side had its weights back",
        "weights",
        "canary",
        ("return min(parted[server], _room(", "return max(parted[server], 0 * _room("),
    ),
    _mutant(
        "forgets to restore the weights",
        "strategies",
        "canary of unequals",
        ("(*steps, Restore())", "tuple(steps)"),
    ),
    _mutant(
        "changes all instances at the first share",
        "strategies",
        "canary",
        ("    if share >= 100:", "    if True:"),
    ),
    _mutant(
        "goes back before the new side's weight is 0",
        "planning",
        "canary with errors",
        ("return (Shift(0), *changes, Restore())", "return (*changes, Restore())"),
    ),
    _mutant(
        "goes back onto a few instances",
        "planning",
        "canary bad later",
        ("return 2 * old >= len(rollout.targets)", "return True"),
    ),
    _mutant(
        "leaves traffic to who had just entered when it went back",
        "weights",
        "canary ramps",
        ("elif rollout.going_back and not shift.share:", "elif False:"),
    ),
    _mutant(
        "takes too little traffic for a pass",
        "verdicts",
        "canary without traffic",
        ("    if rollout.judgement.finding is Finding.TOO_LITTLE:", "    if False:"),
    ),
    _mutant(
        "does not hear what the traffic says",
        "verdicts",
        "slot with errors",
        ("against = rollout.judgement.finding is Finding.AGAINST", "against = False"),
    ),
    _mutant(
        "goes past an approval by itself",
        "verdicts",
        "canary",
        ("    if timeout is None:\n", "    if timeout is None:\n        return Pass('Surely.')\n"),
    ),
    _mutant(
        "keeps a worker while a person is waited for",
        "engine",
        "blue and green",
        (
            "        return await self._park(min(until or again, again), rollout)",
            "        await asyncio.sleep(WATCH_INTERVAL)\n        return False",
        ),
    ),
    _mutant(
        "drains the old slot again before the new one has its weight again",
        "rotation",
        "retired slot",
        ("self._steer_again([one for one in up if one not in quiet]", "self._steer_again(up"),
    ),
    _mutant(
        "does not tell lost weights again",
        "rotation",
        "canary",
        ("        if not lost or self._weighing.locked():", "        if True:"),
    ),
    _mutant(
        "does not know the weights after a takeover",
        "engine",
        "canary",
        ("self._rotation.resume_weights(", "dict("),
    ),
    _mutant(
        "does not see that it came back without a weight",
        "change",
        "canary with errors",
        ("            if server.ready:\n", "            if server.ready:\n                break\n"),
    ),
)
