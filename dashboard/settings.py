"""Settings: all from the environment; a missing or wrong value stops the start.

Each refusal is one sentence that names the variable and says what to set.
"""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from environs import Env, EnvError

from rollouts.probes import parse_networks

BASE_DIR = Path(__file__).resolve().parent.parent
env = Env()
env.read_env(str(BASE_DIR / ".env"), recurse=False)


def required(name: str, hint: str) -> str:
    """Return the variable `name`; raise ImproperlyConfigured with `hint` where it is empty."""
    value = env.str(name, "").strip()
    if not value:
        raise ImproperlyConfigured(f"{name} is not set: {hint}")
    return str(value)


def read(kind: str, name: str, default: Any, hint: str) -> Any:
    """Return variable `name` as `kind` (an environs type); refuse a value that is not one."""
    try:
        return getattr(env, kind)(name, default)
    except EnvError as error:
        raise ImproperlyConfigured(f"{name} is wrong: {hint}") from error


def database(url: str) -> dict[str, Any]:
    """Return Django's settings of the database at `url`; only PostgreSQL is taken."""
    hint = "set it to postgresql://USER:PASSWORD@HOST:PORT/NAME."
    if urlsplit(url).scheme not in {"postgres", "postgresql"}:
        raise ImproperlyConfigured(
            f"DATABASE_URL is wrong: Lockgate keeps its truth in PostgreSQL; {hint}"
        )
    try:
        parsed = dict(dj_database_url.parse(url))
    except ValueError as error:
        raise ImproperlyConfigured(f"DATABASE_URL is wrong: {hint}") from error
    if not parsed.get("NAME"):
        raise ImproperlyConfigured(f"DATABASE_URL names no database: {hint}")
    return parsed


DEBUG = read("bool", "DEBUG", False, "set it to true or false.")
SECRET_KEY = required(
    "SECRET_KEY",
    "set it to a long random text, e.g. from "
    "python -c 'import secrets; print(secrets.token_urlsafe(50))'.",
)
if len(SECRET_KEY) < 32:
    raise ImproperlyConfigured("SECRET_KEY is too short: set it to at least 32 random characters.")
ALLOWED_HOSTS = read("list", "ALLOWED_HOSTS", [], "set it to host names separated by commas.") or (
    ["localhost", "127.0.0.1", "[::1]"] if DEBUG else []
)
if not ALLOWED_HOSTS:
    raise ImproperlyConfigured(
        "ALLOWED_HOSTS is not set: set it to the names people type into the browser, "
        "separated by commas, e.g. lockgate.example.com."
    )
REDIS_URL = required("REDIS_URL", "set it to redis://HOST:PORT/0 or unix:///PATH/redis.sock.")
if urlsplit(REDIS_URL).scheme not in {"redis", "rediss", "unix"}:
    raise ImproperlyConfigured(
        "REDIS_URL is wrong: set it to redis://HOST:PORT/0, rediss://... or unix:///PATH."
    )
DATABASES = {
    "default": database(
        required("DATABASE_URL", "set it to postgresql://USER:PASSWORD@HOST:PORT/NAME.")
    )
}
# Bounded everywhere: a connection that hangs must not hold a rollout or a page.
DATABASES["default"].setdefault("OPTIONS", {}).update(
    {
        "connect_timeout": 5,
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    }
)
# Only the web process pools: a pooled connection outlives the job that used it.
DATABASE_POOL = read("int", "DATABASE_POOL", 0, "set it to a number of connections, 0 for none.")
if DATABASE_POOL:
    DATABASES["default"]["OPTIONS"]["pool"] = {
        "min_size": 1,
        "max_size": DATABASE_POOL,
        "timeout": 10,
    }
CSRF_TRUSTED_ORIGINS = read(
    "list", "CSRF_TRUSTED_ORIGINS", [], "set it to origins such as https://lockgate.example.com."
)
if wrong := [origin for origin in CSRF_TRUSTED_ORIGINS if "://" not in origin]:
    raise ImproperlyConfigured(
        f"CSRF_TRUSTED_ORIGINS is wrong: {wrong[0]!r} lacks its scheme; "
        "set it to origins such as https://lockgate.example.com."
    )
BEHIND_TLS = read("bool", "BEHIND_TLS", False, "set it to true where a proxy adds TLS.")

# Where instances may be; probes and drivers go nowhere else. Empty: anywhere.
try:
    INSTANCE_NETWORKS = parse_networks(read("list", "INSTANCE_NETWORKS", [], ""))
except ValueError as error:
    raise ImproperlyConfigured(
        f"INSTANCE_NETWORKS is wrong ({error}): set it to networks separated by commas, "
        "e.g. 10.0.0.0/8,192.168.7.0/24, or leave it empty."
    ) from error

INSTALLED_APPS = [
    "daphne",
    "dashboard",
    "rollouts",
    "dashboard.admin_apps.InventoryConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "channels",
    "csp",
    "django_rq",
    "import_export",
    "ninja",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_LOCKOUT_TEMPLATE = "429.html"
AXES_VERBOSE = False

ROOT_URLCONF = "dashboard.urls"
ASGI_APPLICATION = "dashboard.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "overview"
LOGOUT_REDIRECT_URL = "login"

STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
# Where `collectstatic` puts what is served; without it the finders serve the files as they are.
STATIC_ROOT = read("path", "STATIC_ROOT", None, "set it to a folder.")
WHITENOISE_USE_FINDERS = STATIC_ROOT is None
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "dashboard.static_files.HashedStaticFiles"
        if STATIC_ROOT
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL]},
    }
}
RQ_QUEUES = {
    name: {
        "URL": REDIS_URL,
        # A job is killed by deadlines of its own, never by an exception out of nowhere.
        "DEFAULT_TIMEOUT": -1,
        "SERIALIZER": "rq.serializers.JSONSerializer",
        # A page waits no longer for Redis; a worker sets what its own long waits need.
        "REDIS_CLIENT_KWARGS": {"socket_connect_timeout": 2, "socket_timeout": 2},
    }
    for name in ("default", "low")  # deployments; looks at fleets, which can wait
}

X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
if BEHIND_TLS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    SECURE_HSTS_SECONDS = 3600
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "frame-ancestors": [NONE],
        "base-uri": [SELF],
        "form-action": [SELF],
    }
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    # These tell of every request or every connection.
    "loggers": {name: {"level": "WARNING"} for name in ("httpx", "axes", "asyncssh", "botocore")},
}

# A spreadsheet runs what begins with "=".
IMPORT_EXPORT_ESCAPE_FORMULAE_ON_EXPORT = True
