#!/bin/sh
# Starts a pool of one machine, and leaves what its client needs in /handover/condor.
set -eu
umask 022

keys=/etc/condor/passwords.d
mkdir -p "$keys" /handover/condor/tokens.d /run/user/10002 /var/cache/cts
if [ ! -s "$keys/POOL" ]; then
    (umask 077 && head -c 64 /dev/urandom >"$keys/POOL")
fi
chown cts: /run/user/10002 /var/cache/cts
chmod 700 /run/user/10002 /var/cache/cts

# The workers' registry speaks plain http.
cat >/etc/containers/registries.conf <<END
unqualified-search-registries = []
[[registry]]
location = "$REGISTRY"
insecure = true
END

(umask 077 && condor_token_create -identity cts@cts.example -key POOL >/handover/condor/tokens.d/cts)
cat >/handover/condor/condor_config <<END
COLLECTOR_HOST = pool:9618
SCHEDD_HOST = schedd@cts.example
TRUST_DOMAIN = cts.example
UID_DOMAIN = cts.example
FILESYSTEM_DOMAIN = cts.example
SEC_CLIENT_AUTHENTICATION_METHODS = IDTOKENS
SEC_CLIENT_ENCRYPTION = REQUIRED
SEC_TOKEN_DIRECTORY = /handover/condor/tokens.d
SEC_TOKEN_SYSTEM_DIRECTORY = /handover/condor/tokens.d
END
chown -R "$SERVICE_USER:$SERVICE_USER" /handover/condor

exec condor_master -f
