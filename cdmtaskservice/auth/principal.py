"""Who is asking, and what roles let them do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

SiteKind = Literal["htcondor", "jaws", "local"]
"""The engines that run jobs; roles are asked for by the kind of engine."""


@dataclass(frozen=True)
class Principal:
    """A user and the roles that the auth service gives them."""

    user: str
    roles: frozenset[str]


@dataclass(frozen=True)
class RoleNames:
    """What the roles are called in the auth service.

    admin: any one of these, together with `staff` and `nersc`, makes an administrator; empty: nobody is one.
    staff: may submit to HTCondor sites and to the service's own machine.
    nersc: may submit to JAWS sites, together with `staff`.
    executor: an external executor, which runs containers.
    refserv: the reference data service.
    """

    admin: frozenset[str] = frozenset()
    staff: str = "KBASE_STAFF"
    nersc: str = "HAS_NERSC_ACCOUNT"
    executor: str = "CTS_EXTERNAL_EXECUTOR"
    refserv: str = "CTS_REFDATA_SERVICE"


@dataclass(frozen=True)
class Permissions:
    """Who may do what, by the names of the roles."""

    names: RoleNames = field(default_factory=RoleNames)

    def is_admin(self, principal: Principal) -> bool:
        """Whether they hold an admin role and may submit everywhere."""
        return bool(self.names.admin & principal.roles) and self.may_submit(principal, "jaws")

    def is_executor(self, principal: Principal) -> bool:
        """Whether they are an external executor."""
        return self.names.executor in principal.roles

    def is_refserv(self, principal: Principal) -> bool:
        """Whether they are the reference data service."""
        return self.names.refserv in principal.roles

    def may_submit(self, principal: Principal, kind: SiteKind) -> bool:
        """Whether they may submit jobs to sites of this kind."""
        return self.roles_to_submit(kind) <= principal.roles

    def roles_to_submit(self, kind: SiteKind) -> frozenset[str]:
        """All the roles that it takes to submit to sites of this kind, as a refusal should name them."""
        if kind == "jaws":
            return frozenset({self.names.staff, self.names.nersc})
        return frozenset({self.names.staff})
