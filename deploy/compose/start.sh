#!/bin/sh
# Everything at once, for trying: builds the images, makes secrets where there are none, starts all services and waits
# until the service answers. See docs/deploy.md.
set -eu
cd "$(dirname "$0")/../.."

secret() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

if [ ! -e .env ]; then
    (
        umask 077
        cat >.env <<END
# Made by deploy/compose/start.sh for docker-compose.yaml. Remove it, and the volumes, for new ones.
S3_ACCESS_KEY=$(secret | cut -c 1-20)
S3_SECRET_KEY=$(secret)
SIGNING_SECRET=$(secret)
END
    )
    echo "made .env with new secrets"
fi

CTS_GIT_HASH=$(git rev-parse HEAD 2>/dev/null || echo unknown)
export CTS_GIT_HASH
docker compose --profile '*' build
# Returns when everything that the service needs is ready, and the service has been started.
docker compose up --detach
docker compose --profile tool push tool

tries=60
until docker compose exec -T service python3 -m cdmtaskservice.cli.alive; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || {
        echo "the service does not answer: see docker compose logs service" >&2
        exit 1
    }
    sleep 1
done

echo "http://localhost:5000/docs is the service. A first job:"
echo "    docker compose run --rm first-job"
