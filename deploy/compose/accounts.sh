#!/bin/sh
# Makes the accounts of docker-compose.yaml, once: their tokens lie in /handover/tokens.
set -eu
umask 077

file=/handover/accounts.json
mkdir -p /handover/tokens

account() {
    user=$1
    shift
    [ -s "/handover/tokens/$user" ] || cts token create "$user" --user "$user" "$@" --file "$file" >"/handover/tokens/$user"
}

account admin --role CTS_ADMIN --role KBASE_STAFF --role HAS_NERSC_ACCOUNT
account ann --role KBASE_STAFF
account executor --role CTS_EXTERNAL_EXECUTOR

# The workers' account reads its token itself.
cp /handover/tokens/executor /handover/executor.token
chown "$POOL_USER:$POOL_USER" /handover/executor.token
chown -R "$SERVICE_USER:$SERVICE_USER" "$file" /handover/tokens
chmod 755 /handover
