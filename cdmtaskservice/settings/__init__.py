"""The settings: a TOML file or a template of one, and `KBCTS_*` in the environment. Read in wiring only."""

from cdmtaskservice.settings.jaws import JawsSettings, NerscSettings
from cdmtaskservice.settings.loading import (
    Problem,
    SettingsError,
    SettingsFile,
    load,
    load_settings,
    mask_secrets,
    read_settings_file,
)
from cdmtaskservice.settings.models import (
    AuthSettings,
    ImageSettings,
    JobSettings,
    KafkaSettings,
    LoggingSettings,
    MongoSettings,
    ReconcilerSettings,
    RefdataSettings,
    RoleNames,
    S3Settings,
    ServiceSettings,
    Settings,
)
from cdmtaskservice.settings.refdata_service import RefdataServiceFile, RefdataServiceSettings
from cdmtaskservice.settings.sites import HTCondorSite, JawsSite, LocalSite, SiteBase, SiteSettings

__all__ = [
    "AuthSettings",
    "HTCondorSite",
    "ImageSettings",
    "JawsSettings",
    "JawsSite",
    "JobSettings",
    "KafkaSettings",
    "LocalSite",
    "LoggingSettings",
    "MongoSettings",
    "NerscSettings",
    "Problem",
    "ReconcilerSettings",
    "RefdataServiceFile",
    "RefdataServiceSettings",
    "RefdataSettings",
    "RoleNames",
    "S3Settings",
    "ServiceSettings",
    "Settings",
    "SettingsError",
    "SettingsFile",
    "SiteBase",
    "SiteSettings",
    "load",
    "load_settings",
    "mask_secrets",
    "read_settings_file",
]
