"""What the HTTP edge is told by the composition root."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from polymem.ports.runtime import Clock, Ids

Provisioning = Literal["open", "closed", "auto"]
IfMatch = Literal["strict", "advisory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Everything the HTTP edge can be told; nothing in it is a secret.

    `mounts`: dialect name -> path under which it is served, "" for the paths of its page.
    `is_loopback`: the server's socket is bound to a loopback address.
    `provisioning` "auto" is open exactly when `is_loopback`.
    `is_reset_enabled`: a caller may delete everything at once.
    """

    version: str
    started_at: datetime
    clock: Clock
    ids: Ids
    mounts: Mapping[str, str] = field(default_factory=lambda: {"mem9": ""})
    is_loopback: bool = False
    provisioning: Provisioning = "auto"
    mem9_if_match: IfMatch = "strict"
    is_reset_enabled: bool = False
    metrics_open_on_loopback: bool = True
    cors_origins: tuple[str, ...] = ()

    @property
    def is_provisioning_open(self) -> bool:
        """True when a caller without a key may make one."""
        return self.is_loopback if self.provisioning == "auto" else self.provisioning == "open"
