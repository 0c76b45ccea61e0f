"""Static files as they are sent: styles in one file, scripts minified, each named by its content.

Nothing of this happens while pages are written: `collectstatic` does it, which `manage.py demo`,
`manage.py up` and the image call before the web starts. Without STATIC_ROOT the files are served
as they lie in `static/`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightningcss
from django.contrib.staticfiles.storage import StaticFilesStorage
from whitenoise.storage import CompressedManifestStaticFilesStorage

try:
    import minify
except ImportError:  # there is no wheel for Apple's own processors
    minify = None

STYLES = ("css/lockgate.css", "css/replaying.css")  # a page links one of them
OURS = "js/"  # what lies elsewhere belongs to packages, and comes minified

# The scales of type and space: the same everywhere and at all times, unlike the colours.
SCALE = re.compile(r"\s*(--[ts]\d): (\d+px);")

Sources = dict[str, tuple[StaticFilesStorage, str]]


def small(script: str) -> str:
    """Return an ES module that does the same in fewer bytes; as it is where nothing can tell."""
    return script if minify is None else str(minify.string("text/javascript", script))


def bundled(styles: Path) -> str:
    """Return all that `styles` imports as one small sheet, with the scales as plain lengths."""
    whole = lightningcss.bundle_css(str(styles), minify=False)
    lengths = dict(SCALE.findall(whole))
    plain = re.sub(r"var\((--[ts]\d)\)", lambda used: lengths[used[1]], SCALE.sub("", whole))
    return str(lightningcss.process_stylesheet(plain, minify=True))


class HashedStaticFiles(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # untyped
    """Collects: bundles our styles, minifies our scripts, then hashes and compresses all."""

    support_js_module_import_aggregation = True

    def post_process(
        self, paths: Sources, dry_run: bool = False, **options: Any
    ) -> Iterator[tuple[str, str | None, bool | Exception]]:
        """Rewrite what is ours in its collected copy, and go on from that."""
        if not dry_run:
            for name in paths:
                if name in STYLES or (name.startswith(OURS) and name.endswith(".js")):
                    self._rewrite(name)
                    paths[name] = (self, name)
        yield from super().post_process(paths, dry_run, **options)

    def _rewrite(self, name: str) -> None:
        # Collecting clears the folder first: what lies there is a fresh copy.
        copy = Path(self.path(name))
        text = bundled(copy) if name in STYLES else small(copy.read_text())
        copy.write_text(text)
