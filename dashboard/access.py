"""Who may see and do what: rights, sessions without a request, origins of sockets."""

from collections.abc import Mapping
from importlib import import_module
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
    load_backend,
)
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import User
from django.http.request import split_domain_port, validate_host
from django.utils.crypto import constant_time_compare

VIEW_SERVICE = "rollouts.view_service"
VIEW_DEPLOYMENT = "rollouts.view_deployment"
DEPLOY = "rollouts.deploy_service"

DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def user_of_session(session_key: str | None) -> User | None:
    """Return the active user who is logged in with this session, read anew; None without one.

    Sockets ask again and again: a logout, a changed password and a deactivated user all
    end the session for them too.
    """
    if not session_key:
        return None
    store = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    session = store.load()
    path = session.get(BACKEND_SESSION_KEY)
    if path not in settings.AUTHENTICATION_BACKENDS:
        return None
    key = get_user_model()._meta.pk.to_python(session[SESSION_KEY])
    user = load_backend(path).get_user(key)
    if user is None or not _unchanged(user, session.get(HASH_SESSION_KEY, "")):
        return None
    return user


def _unchanged(user: AbstractBaseUser, held: str) -> bool:
    """Whether the password is still the one that the session was opened with."""
    hashes = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return any(constant_time_compare(held, one) for one in hashes)


def same_origin(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a socket was opened by one of our own pages, or by no page at all.

    Browsers always say the origin, so a client that does not is no page of somebody else.
    """
    host = headers.get(b"host", b"").decode("latin-1").lower()
    domain, _ = split_domain_port(host)
    if not domain or not validate_host(domain, settings.ALLOWED_HOSTS):
        return False
    if b"origin" not in headers:
        return True
    origin = headers[b"origin"].decode("latin-1").lower()
    if origin in settings.CSRF_TRUSTED_ORIGINS:
        return True
    parts = urlsplit(origin)
    if parts.scheme not in DEFAULT_PORTS:
        return False
    port = DEFAULT_PORTS[parts.scheme]
    return parts.netloc.removesuffix(port) == host.removesuffix(port)
