"""The steps that only move traffic: shift it, take the old slot out, give weights back.

Each is one try, and harmless to repeat.
"""

from rollouts import planning, weights
from rollouts.facts import BalancerReport, Restore, Retire, Rollout, ServerState, Shift
from rollouts.ports import Ports
from rollouts.rotation import Rotation, bounded


class NotYet(Exception):
    """It can't be done now; the message says what has to come before, for people."""


class Shifting:
    """Moves the traffic of one deployment."""

    def __init__(self, ports: Ports, rotation: Rotation) -> None:
        self._ports = ports
        self._rotation = rotation

    async def done(self, rollout: Rollout, step: Shift | Retire | Restore) -> str:
        """Do the step, confirmed by the balancer, and return what was done, in words.

        Raises NotYet, BalancerError or LeaseLost.
        """
        report = await bounded(self._ports.balancer.report)
        match step:
            case Shift():
                return await self._shift(rollout, step, report)
            case Retire(old):
                return await self._retire(rollout, old, report)
            case Restore():
                return await self._restore(rollout, report)

    async def _shift(self, rollout: Rollout, step: Shift, report: BalancerReport) -> str:
        """Set the weights that part the traffic as `step` says."""
        _check_up(rollout, step, report)
        await self._bring_in(rollout, step, report)
        # What was answered until now was with the shares before.
        await self._ports.journal.traffic(report)
        await self._rotation.shift(weights.of_shift(rollout, step, full_weights(report)))
        whose = f"slot {rollout.targets[0].instance.slot}" if step.old else rollout.version
        return f"{step.share:g} % of the traffic to {whose}."

    async def _bring_in(self, rollout: Rollout, step: Shift, report: BalancerReport) -> None:
        """Put what was retired of the old slot back in rotation, before it gets traffic again."""
        if rollout.going_back and any(isinstance(one, Retire) for one in rollout.plan):
            for name in step.old:
                self._rotation.want_in(name)
                if name in report.servers and report.servers[name].state is ServerState.DRAIN:
                    await self._rotation.put_back(name)

    async def _retire(self, rollout: Rollout, old: tuple[str, ...], report: BalancerReport) -> str:
        """Take the servers of the old slot, which get no traffic any more, out of rotation.

        Not before the new ones have all of it: a balancer that was restarted may have forgotten.
        """
        new = [report.servers.get(target.instance.server) for target in rollout.targets]
        if not all(one is not None and one.weight for one in new):
            raise NotYet("waiting for the new slot to have all traffic again")
        for server in old:
            await self._rotation.take_out(server)
        return f"The old slot is out of rotation: {planning.names(old)}."

    async def _restore(self, rollout: Rollout, report: BalancerReport) -> str:
        """Give the targets their configured weights again."""
        full = full_weights(report)
        servers = [target.instance.server for target in rollout.targets]
        await self._rotation.shift({one: full[one] for one in servers if one in full})
        return "Every instance has its configured weight again."


def full_weights(report: BalancerReport) -> dict[str, int]:
    """Return each server's weight in normal service."""
    return {name: server.full for name, server in report.servers.items()}


def _check_up(rollout: Rollout, shift: Shift, report: BalancerReport) -> None:
    """Raise NotYet where traffic would go to a slot that can't take it (S11)."""
    if not shift.old:
        return
    if not shift.share:
        if not any(name in report.servers and report.servers[name].up for name in shift.old):
            raise NotYet("waiting for the old slot, of which the balancer sees nobody up")
        return
    missing = [
        target.instance.name
        for target in rollout.targets
        if (server := report.servers.get(target.instance.server)) is None or not server.ready
    ]
    if missing:
        names = planning.names(missing)
        raise NotYet(f"waiting for {names}, which the balancer does not see up")
