"""The deploy form. Its fields are drawn from the policy's own knobs, and checked by them."""

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from django import forms

from dashboard.step_lines import lines, steps_of
from rollouts.actions import Draft
from rollouts.models import Service
from rollouts.policy import ANALYSIS, BY_KEY, KNOBS, Analysis, Knob, defaults

# Each has a field, and so has each within `analysis`.
WITHIN = "analysis."
JUDGING = [replace(knob, key=WITHIN + knob.key) for knob in ANALYSIS]
FIELDS = [*(knob for knob in KNOBS if knob.key != "analysis"), *JUDGING]
OWN_FIELDS = ("version", "note", "key", "previewed")
# What each strategy does, in a line.
STRATEGY_LINES = {
    "rolling": "Batch after batch; each is verified before the next one.",
    "canary": "A small share of the traffic first, judged against the old version.",
    "blue_green": "The idle slot is updated off traffic, then the traffic moves to it.",
}
# The keys that only one strategy looks at, shown where it is chosen.
STRATEGY_KEYS = {
    "canary": ("canary_steps",),
    "blue_green": ("shift_steps", "approve", "keep_old", "retire_old"),
}
OF_STRATEGIES = {key for keys in STRATEGY_KEYS.values() for key in keys}
CHOICES = {"blue_green": "blue/green", "go_on": "go on"}
STEPS_HELP = (
    "In each line a share of the traffic with its time to bake, or “approve”; the last is 100 %."
)
SHOWN_AT_ONCE = {"strategy", "rollback_threshold"} | {knob.key for knob in KNOBS if knob.main}


def typed(knob: Knob, raw: Any) -> Any:
    """Return what was typed as the knob's type; as it is where it isn't one, to be refused."""
    kinds: dict[str, tuple[type, ...]] = {
        "number": (int, float),
        "integer": (int,),
        "amount": (int,),
    }
    if knob.kind == "names":
        return [name for part in raw.split(",") if (name := part.strip())]
    for kind in kinds.get(knob.kind, ()):
        try:
            return kind(raw)
        except ValueError:
            continue
    return raw


def shown(value: Any) -> str:
    """Return a knob's value as it would be typed."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(value) if isinstance(value, list) else str(value)


class StepsField(forms.CharField):
    """Steps in lines, as `step_lines` reads them; None where nothing was typed."""

    def to_python(self, value: Any) -> Any:
        """Return the steps; raise ValidationError with what is not understood."""
        try:
            return steps_of(str(super().to_python(value))) or None
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error


@dataclass(frozen=True)
class Drawn:
    """A knob as it is drawn: its field in the form, and its default in words."""

    field: forms.BoundField
    knob: Knob
    default: str

    @property
    def wide(self) -> bool:
        """Whether its value takes several lines."""
        return self.knob.kind == "steps"


@dataclass(frozen=True)
class Group:
    """The knobs of one strategy, and whether they are hidden because another is chosen."""

    strategy: str
    fields: list[Drawn]
    hidden: bool


@dataclass(frozen=True)
class Strategy:
    """A strategy as it is offered: its name, what it does, and whether it is chosen."""

    value: str
    name: str
    line: str
    chosen: bool


class DeployForm(forms.Form):
    """A version, and every knob: an empty field is the service's default.

    `only` names the instances that are changed, all where it is empty. `key` makes a double click
    one deployment; `previewed` is the plan that was seen.
    """

    fresh = True  # nothing was asked for yet, so that what was typed before may come back

    version = forms.CharField(
        max_length=20_000,
        widget=forms.TextInput(
            {"list": "versions", "autocomplete": "off", "spellcheck": "false", "placeholder": "v42"}
        ),
    )
    note = forms.CharField(
        required=False, max_length=500, help_text="Why, for those who read the history."
    )
    instances = forms.CharField(
        required=False,
        max_length=20_000,
        label="instances",
        help_text="Names of the only ones to be changed, with commas between; rolling alone.",
        widget=forms.TextInput(
            {"placeholder": "all", "autocomplete": "off", "spellcheck": "false"}
        ),
    )
    key = forms.CharField(required=False, max_length=200, widget=forms.HiddenInput)
    previewed = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, service: Service, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = service.policy if isinstance(service.policy, dict) else {}
        self.defaults = {**defaults(), **own}
        judging = {**asdict(Analysis()), **self.defaults.pop("analysis")}
        self.defaults.update({WITHIN + key: value for key, value in judging.items()})
        for knob in FIELDS:
            self.fields[knob.key] = self._field(knob)
        self.initial.setdefault("key", secrets.token_urlsafe(16))

    def _field(self, knob: Knob) -> forms.Field:
        default = self.defaults[knob.key]
        field: forms.Field
        if knob.kind == "switch":
            field = forms.BooleanField(required=False, initial=default, help_text=knob.help)
        elif knob.choices:
            choices = [(choice, CHOICES.get(choice, choice)) for choice in knob.choices]
            field = forms.CharField(
                required=False,
                initial=default,
                help_text=knob.help,
                widget=forms.Select(choices=choices),
            )
        elif knob.kind == "steps":
            usual = "\n".join(lines(default))
            attributes = {"rows": max(2, len(default)), "placeholder": usual, "spellcheck": "false"}
            field = StepsField(
                required=False,
                max_length=20_000,
                help_text=STEPS_HELP,
                widget=forms.Textarea(attributes),
            )
        else:
            mode = {"number": "decimal", "integer": "numeric"}.get(knob.kind, "text")
            attributes = {"inputmode": mode, "placeholder": shown(default), "autocomplete": "off"}
            field = forms.CharField(
                required=False, help_text=knob.help, widget=forms.TextInput(attributes)
            )
        field.label = knob.key
        return field

    def policy(self) -> dict[str, Any]:
        """Return the keys that differ from the service's defaults; call it once cleaned."""
        chosen: dict[str, Any] = {}
        for knob in FIELDS:
            value = self._typed(knob)
            if value not in ("", None) and value != self.defaults[knob.key]:
                chosen[knob.key] = value
        if any(knob.key in chosen for knob in JUDGING):
            chosen["analysis"] = {
                knob.key.removeprefix(WITHIN): chosen.pop(knob.key, self.defaults[knob.key])
                for knob in JUDGING
            }
        return chosen

    def _typed(self, knob: Knob) -> Any:
        raw = self.cleaned_data.get(knob.key, "")
        return raw if knob.kind in {"switch", "steps"} else typed(knob, raw)

    def clean(self) -> None:
        """Refuse what is wrong within `analysis` at its own field, as the domain has one key."""
        super().clean()
        for knob in JUDGING:
            value = self._typed(knob)
            try:
                knob.check(self.defaults[knob.key] if value == "" else value)
            except ValueError as error:
                self.add_error(knob.key, str(error))

    def refusals(self) -> dict[str, str]:
        """Return by key what is wrong with what was typed; to have typed no version yet is not."""
        untyped = set() if self.data.get("version") else {"version"}
        return {key: str(texts[0]) for key, texts in self.errors.items() if key not in untyped}

    def only(self) -> list[str] | None:
        """Return the names of the instances that alone are changed; None for all of them."""
        named = [
            name for part in self.cleaned_data["instances"].split(",") if (name := part.strip())
        ]
        return named or None

    def refuse(self, errors: Mapping[str, str]) -> None:
        """Show what the domain refused at its fields, the rest above the form with its key."""
        for key, text in errors.items():
            nobody_chosen = key == "instances" and not self.only()
            if key in self.fields and key not in OWN_FIELDS[2:] and not nobody_chosen:
                self.add_error(key, f"{key} {text}")
            else:
                self.add_error(None, f"{key}: {text}")

    def strategy(self) -> str:
        """Return the strategy that is chosen, or else that of the service."""
        chosen = self.data.get("strategy") if self.is_bound else None
        return str(chosen or self.defaults["strategy"])

    def strategies(self) -> list[Strategy]:
        """Return what can be chosen, each in a line."""
        chosen = self.strategy()
        return [
            Strategy(value, CHOICES.get(value, value).capitalize(), line, value == chosen)
            for value, line in STRATEGY_LINES.items()
        ]

    def groups(self) -> list[Group]:
        """Return what is only for one strategy; what was refused is shown whichever is chosen."""
        return [
            Group(
                strategy,
                [self._drawn(BY_KEY[key]) for key in keys],
                strategy != self.strategy() and not any(self[key].errors for key in keys),
            )
            for strategy, keys in STRATEGY_KEYS.items()
        ]

    def main_fields(self) -> list[Drawn]:
        """Return the other knobs that are shown at once."""
        shown_too = SHOWN_AT_ONCE - OF_STRATEGIES - {"strategy"}
        return [self._drawn(knob) for knob in FIELDS if knob.key in shown_too]

    def more_fields(self) -> list[Drawn]:
        """Return the knobs that are folded away."""
        return [
            self._drawn(knob) for knob in FIELDS if knob.key not in SHOWN_AT_ONCE | OF_STRATEGIES
        ]

    def _drawn(self, knob: Knob) -> Drawn:
        value = self.defaults[knob.key]
        default = ", ".join(lines(value)) if knob.kind == "steps" else shown(value)
        return Drawn(self[knob.key], knob, CHOICES.get(default, default) or "none")

    def more_open(self) -> bool:
        """Whether something folded away wants to be seen: an error, or a value of one's own."""
        if not self.is_bound:
            return False
        only = self["instances"]
        return bool(only.errors or only.data) or any(
            one.field.errors or (one.field.data and one.knob.kind not in {"switch", "choice"})
            for one in self.more_fields()
        )

    def untouched(self) -> dict[str, str]:
        """Return what a browser sends of a form in which nothing was typed: what is ticked."""
        switches = [knob.key for knob in FIELDS if knob.kind == "switch"]
        return {key: "on" for key in switches if self.defaults[key]}


def seen_of(draft: Draft, only: Sequence[str] | None = None) -> str:
    """Return what of a plan has to be the same still when it is started, as JSON."""
    return json.dumps(
        {
            "version": draft.version,
            "policy": draft.policy.__dict__,
            "only": sorted(only or ()),
            "batches": [
                {one.instance.name: one.version for one in batch} for batch in draft.plan.batches
            ],
            "warnings": list(draft.warnings),
        },
        sort_keys=True,
    )


def differences(previewed: str, draft: Draft, only: Sequence[str] | None = None) -> list[str]:
    """Return in words what changed in the fleet since the plan `previewed` was drawn.

    A plan that was drawn for other inputs tells nothing about the fleet.
    """
    now = json.loads(seen_of(draft, only))
    try:
        then = json.loads(previewed)
        same_inputs = all(then[key] == now[key] for key in ("version", "policy", "only"))
        before, after = _places(then["batches"]), _places(now["batches"])
        warned = {str(warning) for warning in then["warnings"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    if not same_inputs:
        return []
    return [
        *(f"{name} is part of it now." for name in after if name not in before),
        *(f"{name} is no longer part of it." for name in before if name not in after),
        *_moves(before, after),
        *(warning for warning in draft.warnings if warning not in warned),
        *(f"No longer: {one}" for one in sorted(warned - set(draft.warnings))),
    ]


def _places(batches: Iterable[Mapping[str, str]]) -> dict[str, tuple[int, str]]:
    return {
        str(name): (number, str(version))
        for number, batch in enumerate(batches, 1)
        for name, version in batch.items()
    }


def _moves(
    before: Mapping[str, tuple[int, str]], after: Mapping[str, tuple[int, str]]
) -> list[str]:
    """Return what is different about the instances in both plans."""
    words: list[str] = []
    for name in (name for name in after if name in before):
        (old_batch, old_version), (new_batch, new_version) = before[name], after[name]
        if old_version != new_version:
            words.append(f"{name} runs {new_version or '?'} now, it was {old_version or '?'}.")
        if old_batch != new_batch:
            words.append(f"{name} is in batch {new_batch} now, it was in batch {old_batch}.")
    return words
