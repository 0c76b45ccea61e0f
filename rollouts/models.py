"""What is stored: inventory, deployments with their targets, and the list of events.

Nothing here acts: a status is written by `journal.py` alone.
"""

import secrets
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.serializers.json import DjangoJSONEncoder
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from rollouts import balancers, drivers, facts, probes
from rollouts.adapters import SettingsError
from rollouts.policy import PolicyError, check_keys
from rollouts.states import ACTIVE, DeploymentStatus, TargetStatus
from rollouts.validators import (
    validate_host,
    validate_label,
    validate_name,
    validate_preview_url,
    validate_server,
    validate_version,
)

ACTIVE_VALUES = sorted(status.value for status in ACTIVE)
DEPLOYMENT_CHOICES = [(status.value, status.value.replace("_", " ")) for status in DeploymentStatus]
TARGET_CHOICES = [(status.value, status.value.replace("_", " ")) for status in TargetStatus]


def new_deployment_id() -> str:
    """Return `deploy-` and 12 random hex digits."""
    return f"deploy-{secrets.token_hex(6)}"


def protect_while_deploying(
    collector: Any, field: Any, sub_objs: models.QuerySet[Any], using: str
) -> None:
    """on_delete: refuse while an active deployment needs the row, else keep history without it."""
    active = Target.objects.filter(deployment__status__in=ACTIVE_VALUES)
    if held := active.filter(pk__in=[target.pk for target in sub_objs]):
        raise models.ProtectedError(f"{held[0].deployment_id} is running and needs it.", set(held))
    models.SET_NULL(collector, field, sub_objs, using)


class Slot(models.TextChoices):
    """Halves of a service for blue/green."""

    NONE = "", "-"
    BLUE = "blue", "blue"
    GREEN = "green", "green"


class Service(models.Model):
    """Something that is deployed: its instances, how they get a version, how traffic is steered."""

    name = models.CharField(max_length=63, unique=True, validators=[validate_name])
    driver = models.JSONField(
        help_text='How an instance gets a version, e.g. {"kind": "command", '
        '"update": ["/opt/shop/deploy", "{name}", "{version}"]}'
    )
    balancer = models.JSONField(
        help_text='How traffic is steered, e.g. {"kind": "haproxy", '
        '"addresses": ["unix:/run/haproxy/admin.sock"], "backend": "app"}'
    )
    version_source = models.JSONField(
        "version reported at",
        default=dict,
        blank=True,
        help_text='Where an instance says what it runs, e.g. {"path": "/version"}; '
        'with "json": KEY or "header": NAME if it is not the whole body.',
    )
    policy = models.JSONField(
        default=dict, blank=True, help_text="Keys that differ from the defaults of a deployment."
    )
    live_slot = models.CharField(
        max_length=5,
        choices=Slot.choices,
        blank=True,
        default="",
        editable=False,
        help_text="The slot that has the traffic; empty before the first blue/green deployment.",
    )
    preview_url = models.CharField(
        max_length=300,
        blank=True,
        validators=[validate_preview_url],
        help_text="Where a slot can be tried off traffic, {slot} standing for its name, "
        "e.g. https://{slot}.shop.example.com/",
    )
    locked = models.BooleanField(default=False, help_text="No deployment starts while locked.")
    lock_reason = models.CharField(max_length=200, blank=True)
    locked_by = models.CharField(max_length=150, blank=True, editable=False)
    locked_until = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]
        permissions = [("deploy_service", "Can start and stop deployments")]
        constraints = [
            models.CheckConstraint(
                condition=Q(live_slot__in=Slot.values), name="service_live_slot_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raise ValidationError with what is wrong in each of the JSON fields."""
        errors: dict[str, list[str]] = {}
        checks = {
            "driver": drivers.check,
            "balancer": balancers.check,
            "version_source": probes.check_source,
            "policy": check_keys,
        }
        for name, check in checks.items():
            value = getattr(self, name)
            if not isinstance(value, dict):
                errors[name] = ["must be a JSON object"]
                continue
            try:
                check(value)
            except (SettingsError, PolicyError) as error:
                errors[name] = [f"{key}: {text}" for key, text in error.errors.items()]
        if errors:
            raise ValidationError(errors)

    @property
    def preview_of_idle(self) -> str:
        """Return where the idle slot can be tried; "" where nobody knows which one it is."""
        idle = {Slot.BLUE: "green", Slot.GREEN: "blue"}.get(Slot(self.live_slot))
        return self.preview_url.replace("{slot}", idle) if idle else ""

    @property
    def lock_holds(self) -> bool:
        """Whether the lock is set and its time is not over."""
        return self.locked and (self.locked_until is None or self.locked_until > timezone.now())


class Instance(models.Model):
    """One running copy of a service."""

    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="instances")
    name = models.CharField(max_length=63, validators=[validate_name])
    hostname = models.CharField("host", max_length=253, validators=[validate_host])
    port = models.PositiveIntegerField(validators=[MinValueValidator(1), MaxValueValidator(65535)])
    server = models.CharField(
        max_length=128,
        blank=True,
        validators=[validate_server],
        help_text="Its name in the balancer; the same as the name where left empty.",
    )
    slot = models.CharField(max_length=5, choices=Slot.choices, blank=True, default="")
    zone = models.CharField(max_length=63, blank=True, validators=[validate_label])
    active = models.BooleanField(default=True, help_text="Deployments leave others alone.")
    version = models.CharField(
        max_length=128, blank=True, editable=False, help_text="The version last verified on it."
    )
    version_at = models.DateTimeField(null=True, editable=False)
    digest = models.CharField(
        max_length=128, blank=True, editable=False, help_text="Of exactly what was verified on it."
    )
    held_out = models.TextField(
        blank=True, editable=False, help_text="Why a deployment left it out of rotation."
    )
    seen = models.JSONField(
        default=dict, blank=True, editable=False, help_text="What the last look from afar found."
    )

    class Meta:
        ordering = ["service", "name"]
        constraints = [
            models.UniqueConstraint(fields=["service", "name"], name="instance_name_once"),
            models.UniqueConstraint(fields=["service", "server"], name="instance_server_once"),
            models.UniqueConstraint(
                fields=["service", "hostname", "port"], name="instance_address_once"
            ),
            models.CheckConstraint(
                condition=Q(port__gte=1, port__lte=65535), name="instance_port_valid"
            ),
            models.CheckConstraint(condition=~Q(server=""), name="instance_server_named"),
            models.CheckConstraint(
                condition=Q(slot__in=["", "blue", "green"]), name="instance_slot_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.service}/{self.name}"

    def clean_fields(self, exclude: Any = None) -> None:
        """Fill in the server's name before the fields are checked."""
        self.server = self.server or self.name
        super().clean_fields(exclude=exclude)

    def clean(self) -> None:
        """Refuse a host outside of the networks that the operator allows, where any are set."""
        if why := probes.refuse_host(self.hostname, settings.INSTANCE_NETWORKS):
            raise ValidationError({"hostname": why})

    @property
    def last_seen_version(self) -> str:
        """Return what it was last known to run: seen, or verified on it; "" if neither."""
        seen_at = parse_datetime(self.seen.get("at") or "")
        newer = seen_at is not None and (self.version_at is None or seen_at > self.version_at)
        return (self.seen.get("version") if newer else "") or self.version

    def fact(self) -> facts.Instance:
        """Return what the planner, drivers and probes need of it."""
        return facts.Instance(
            self.name, self.hostname, self.port, self.server, self.slot, self.zone
        )


class HostKey(models.Model):
    """A key that a host's sshd showed; trusted once a person has confirmed it."""

    host = models.CharField(max_length=253)
    port = models.PositiveIntegerField(default=22)
    key = models.TextField(help_text="Its type and the key in base64.")
    fingerprint = models.CharField(max_length=80, help_text="As `ssh-keygen -lf` shows it.")
    met_at = models.DateTimeField(default=timezone.now)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    confirmed_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["host", "port", "fingerprint"]
        constraints = [
            models.UniqueConstraint(fields=["host", "port", "fingerprint"], name="host_key_once"),
        ]

    def __str__(self) -> str:
        return f"{self.host}:{self.port} {self.fingerprint}"


class Deployment(models.Model):
    """One change of a service to a version: a stored plan, a status, a list of events."""

    id = models.CharField(primary_key=True, max_length=32, default=new_deployment_id)
    service = models.ForeignKey(Service, on_delete=models.PROTECT, related_name="deployments")
    version = models.CharField(max_length=128, validators=[validate_version])
    previous_version = models.CharField(max_length=128, blank=True)
    strategy = models.CharField(max_length=20, default="rolling")
    status = models.CharField(
        max_length=20, choices=DEPLOYMENT_CHOICES, default=DeploymentStatus.PENDING.value
    )
    reason = models.TextField(blank=True, help_text="Why it is as it is, in a sentence.")
    policy = models.JSONField()
    adapters = models.JSONField(
        default=dict,
        help_text="Driver, balancer, version source and instances as they were at the start.",
    )
    plan = models.JSONField()
    way_back = models.JSONField(null=True)
    ends_as = models.CharField(max_length=20, blank=True)
    cursor = models.PositiveIntegerField(default=0)
    waiting_until = models.DateTimeField(null=True)
    progress_at = models.DateTimeField(default=timezone.now)
    owner = models.CharField(max_length=80, blank=True, help_text="The process that drives it.")
    epoch = models.PositiveIntegerField(default=0, help_text="Rises with each owner.")
    lease_until = models.DateTimeField(null=True, help_text="Until then nobody else may drive it.")
    heard_at = models.DateTimeField(null=True, help_text="When its owner was last heard of.")
    write_number = models.PositiveIntegerField(
        default=0, help_text="Counts the owners' transactions, so that none is done twice."
    )
    due_at = models.DateTimeField(
        null=True, default=timezone.now, help_text="When it wants an owner, if it has none."
    )
    waiting_for = models.CharField(max_length=20, blank=True)
    wish = models.CharField(max_length=20, blank=True)
    wish_by = models.CharField(max_length=150, blank=True)
    traffic = models.JSONField(default=dict)
    counters = models.JSONField(
        default=list, help_text="The balancer's requests and failures at the last report."
    )
    evidence = models.JSONField(
        default=dict, help_text="What was counted of both sides, and what it says so far."
    )
    note = models.CharField(max_length=500, blank=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    started_by = models.CharField(max_length=150)
    idempotency_key = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    seq = models.PositiveIntegerField(default=0)

    db_now: datetime  # the database's time; only where `journal.locked` asked for it

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["service"],
                condition=Q(status__in=ACTIVE_VALUES),
                name="deployment_one_active_per_service",
            ),
            models.UniqueConstraint(
                fields=["service", "idempotency_key"],
                condition=~Q(idempotency_key=""),
                name="deployment_idempotency_key_once",
            ),
            models.CheckConstraint(
                condition=Q(status__in=[status.value for status in DeploymentStatus]),
                name="deployment_status_known",
            ),
            models.CheckConstraint(
                condition=Q(status__in=ACTIVE_VALUES, completed_at__isnull=True)
                | (~Q(status__in=ACTIVE_VALUES) & Q(completed_at__isnull=False)),
                name="deployment_completed_at_matches_status",
            ),
        ]
        indexes = [
            models.Index(fields=["service", "-created_at"], name="deployment_history"),
            models.Index(
                fields=["due_at"], condition=Q(status__in=ACTIVE_VALUES), name="deployment_due"
            ),
            # Of the figures over time, which read nothing else of a deployment.
            models.Index(
                fields=["completed_at"],
                include=["service", "status", "started_at", "created_at"],
                condition=Q(completed_at__isnull=False),
                name="deployment_ended",
            ),
            models.Index(
                fields=["service", "completed_at"],
                include=["status", "started_at", "created_at"],
                condition=Q(completed_at__isnull=False),
                name="deployment_ended_of",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.id} ({self.service} to {self.version})"

    @property
    def is_active(self) -> bool:
        """Whether it has not ended."""
        return self.status in ACTIVE_VALUES


class Target(models.Model):
    """One instance's part in one deployment, with a copy of where the instance was."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="targets")
    instance = models.ForeignKey(
        Instance, null=True, on_delete=protect_while_deploying, related_name="targets"
    )
    name = models.CharField(max_length=63)
    hostname = models.CharField(max_length=253)
    port = models.PositiveIntegerField()
    server = models.CharField(max_length=128)
    slot = models.CharField(max_length=5, blank=True)
    zone = models.CharField(max_length=63, blank=True)
    batch = models.PositiveIntegerField()
    position = models.PositiveIntegerField(help_text="Its place in the order of the plan.")
    status = models.CharField(
        max_length=20, choices=TARGET_CHOICES, default=TargetStatus.PENDING.value
    )
    old_version = models.CharField(max_length=128, blank=True)
    new_version = models.CharField(max_length=128)
    digest = models.CharField(max_length=128, blank=True)
    touched = models.BooleanField(default=False, help_text="An update to the new version began.")
    returning = models.BooleanField(default=False, help_text="Its way back began.")
    error = models.TextField(blank=True)
    sessions = models.PositiveIntegerField(null=True)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["deployment", "position"]
        constraints = [
            models.UniqueConstraint(fields=["deployment", "name"], name="target_once"),
            models.CheckConstraint(
                condition=Q(status__in=[status.value for status in TargetStatus]),
                name="target_status_known",
            ),
        ]
        indexes = [models.Index(fields=["instance", "-id"], name="target_latest")]

    def __str__(self) -> str:
        return f"{self.deployment_id}/{self.name}"

    def fact(self) -> facts.Target:
        """Return what the planner and the engine need of it."""
        return facts.Target(
            instance=facts.Instance(
                self.name, self.hostname, self.port, self.server, self.slot, self.zone
            ),
            batch=self.batch,
            status=TargetStatus(self.status),
            old_version=self.old_version,
            new_version=self.new_version,
            touched=self.touched,
            returning=self.returning,
            error=self.error,
        )


class HealthCheck(models.Model):
    """One answer of an instance to a probe."""

    target = models.ForeignKey(Target, on_delete=models.CASCADE, related_name="health_checks")
    at = models.DateTimeField()
    ok = models.BooleanField()
    status = models.PositiveIntegerField(null=True, help_text="HTTP status, where one came.")
    latency_ms = models.FloatField(null=True)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["target", "id"]
        indexes = [models.Index(fields=["target", "-id"], name="health_check_latest")]

    def __str__(self) -> str:
        return f"{self.target} {self.status or self.error}"


class Event(models.Model):
    """One thing that happened, numbered 1..n without a gap within its deployment."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveIntegerField()
    at = models.DateTimeField()
    kind = models.CharField(max_length=20)
    target = models.CharField(max_length=63, blank=True)
    patch = models.JSONField(default=dict, encoder=DjangoJSONEncoder)
    message = models.TextField(blank=True)

    class Meta:
        ordering = ["deployment", "seq"]
        constraints = [
            models.UniqueConstraint(fields=["deployment", "seq"], name="event_seq_once"),
            models.CheckConstraint(condition=Q(seq__gte=1), name="event_seq_from_one"),
        ]

    def __str__(self) -> str:
        return f"{self.deployment_id} #{self.seq} {self.kind}"
