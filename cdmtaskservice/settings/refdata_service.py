"""The settings of a reference data service, which runs near the storage of a site and knows nothing else.

`refdata-service.toml.jinja` at the top of the repository holds every setting with the same description and default.
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field, field_validator

from cdmtaskservice.settings.models import LoggingSettings
from cdmtaskservice.settings.section import AllSettings, Section
from cdmtaskservice.settings.values import AbsolutePath, Duration, Url


class RefdataStoreSettings(Section):
    """A site whose reference data is brought."""

    site: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """The site's name in the service's settings."""
    directory: AbsolutePath
    """Absolute path of the directory that holds its reference data; the workers see the same one as refdata_dir."""


class RefdataServiceSettings(Section):
    """The reference data service."""

    service_url: Url
    """The URL of the CDM Task Service."""
    token_file: AbsolutePath
    """Absolute path of a file with a token that has the role of reference data services. It is read for each call."""
    poll_interval: Duration = Field(default=timedelta(seconds=5), ge=timedelta(milliseconds=100))
    """How often it asks for work, in seconds or as an ISO 8601 duration."""
    at_once: int = Field(default=2, ge=1, le=100)
    """How many files it stages at once, at one site."""
    stores: tuple[RefdataStoreSettings, ...] = Field(min_length=1)
    """The sites whose reference data it brings, a table each."""

    @field_validator("stores")
    @classmethod
    def _sites_are_unique(cls, stores: tuple[RefdataStoreSettings, ...]) -> tuple[RefdataStoreSettings, ...]:
        names = [store.site for store in stores]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"must be of different sites: {', '.join(twice)} stands there more than once")
        return stores


class RefdataServiceFile(AllSettings):
    """All settings of a reference data service."""

    refdata_service: RefdataServiceSettings
    """The reference data service."""
    logging: LoggingSettings = LoggingSettings()
    """What is logged, and how."""
