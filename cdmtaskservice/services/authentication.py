"""Who is asking, and what they may do."""

from __future__ import annotations

from collections.abc import Sequence

from cdmtaskservice.auth import container_token
from cdmtaskservice.auth.base import Authenticator
from cdmtaskservice.auth.container_token import ContainerClaim, ContainerTokens
from cdmtaskservice.auth.principal import Permissions, Principal
from cdmtaskservice.domain.clock import Clock


class Authentication:
    """Tells users and containers from their tokens, and users' rights from their roles."""

    def __init__(
        self,
        authenticator: Authenticator,
        tokens: ContainerTokens,
        permissions: Permissions,
        allowed_paths: Sequence[str],
        clock: Clock,
    ) -> None:
        """allowed_paths: S3 prefixes that users may read from and write to, `{user}` standing for their name."""
        self._authenticator = authenticator
        self._tokens = tokens
        self._permissions = permissions
        self._allowed_paths = tuple(allowed_paths)
        self._clock = clock

    async def principal(self, token: str) -> Principal | ContainerClaim:
        """The user or the container that a token stands for.

        Raises: InvalidTokenError, DependencyUnavailableError.
        """
        if container_token.looks_like(token):
            return self._tokens.verify(token, self._clock())
        return await self._authenticator.authenticate(token)

    def is_admin(self, principal: Principal) -> bool:
        """Whether the user is an administrator."""
        return self._permissions.is_admin(principal)

    def is_executor(self, principal: Principal) -> bool:
        """Whether the user is an external executor."""
        return self._permissions.is_executor(principal)

    def is_refserv(self, principal: Principal) -> bool:
        """Whether the user is a reference data service."""
        return self._permissions.is_refserv(principal)

    def allowed_paths(self, principal: Principal) -> Sequence[str]:
        """The S3 prefixes that the user may read from and write to."""
        return [p.replace("{user}", principal.user) for p in self._allowed_paths]
