"""The key and the password that a server is asked with: checked before they are sent, hidden in all that is shown."""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from rlaif.core.errors import BackendError, ConfigError

HIDDEN = "***"
SHORTEST_SECRET = 8
"""Characters. What is shorter is a word such as EMPTY, which an honest answer may hold."""
NO_KEY = "none"
"""What is sent as the key where there is none: the SDK refuses to send nothing."""


def shown(url: str) -> str:
    """The address without user name and password."""
    try:
        parts = urlsplit(url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    except ValueError:
        return url.rpartition("@")[2]


def refuse_key_in(text: str, key_env: str, *, where: str) -> None:
    """ConfigError where a text that is copied into runs and cards holds the key."""
    if any(secret in text for secret in _secrets(os.environ.get(key_env, "").strip(), None)):
        raise ConfigError(
            f"holds the key of the environment variable {key_env}, which would be copied into runs and cards",
            where=where,
            remedy="take it out: the key is sent as it is",
        )


@dataclass(frozen=True, slots=True)
class Credentials:
    """How one server is asked. `url` has no password in it; `basic` is the (user, password) that it had; `secrets` are
    what must not be shown, as text, JSON and addresses write it."""

    url: str
    key: str = field(repr=False)
    basic: tuple[str, str] | None = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, url: str, *, field: str, key_env: str) -> Credentials:
        """From the address in the config field `field` and the environment variable `key_env`. BackendError for an
        address that is none and for a key that no header can carry; neither shows a secret."""
        try:
            parts = urlsplit(url)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            (parts.hostname or "").encode("idna")
        except ValueError:  # a port beyond 65535, a bracket that stays open, a host that no name server knows
            sound = False
        if not (sound and url.isprintable()):
            raise BackendError(
                "is not the address of a server", where=shown(url), remedy=f"write {field}: http://127.0.0.1:8000/v1"
            )
        key = os.environ.get(key_env, "").strip()
        wrong = re.search(r"[^!-~]", key)
        if wrong is not None:
            raise BackendError(
                f"the key in the environment variable {key_env} holds a blank, a line break, a control character or a "
                f"letter outside ASCII (character {wrong.start() + 1} of {len(key)}): no key does",
                where=shown(url),
                remedy=f"export {key_env}=... again, with the key alone",
            )
        basic = (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else None
        return cls(shown(url), key or NO_KEY, basic, _secrets(key, basic))

    def hide(self, text: str) -> str:
        """The text with `***` in the place of every secret."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text


def _secrets(key: str, basic: tuple[str, str] | None) -> tuple[str, ...]:
    """Every way in which key, password, or the header made of user and password may be written; the longest first."""
    plain = [key]
    if basic is not None:
        plain += [basic[1], base64.b64encode(":".join(basic).encode()).decode()]
    secrets = [secret for secret in plain if len(secret) >= SHORTEST_SECRET]
    written = {form for secret in secrets for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))}
    written |= {form.replace("/", r"\/") for form in written}
    return tuple(sorted(written, key=len, reverse=True))
