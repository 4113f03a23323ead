#!/bin/sh
# An object store with one identity and the buckets that the service needs.
set -eu
umask 077

cat >/tmp/identities.json <<END
{"identities": [{"name": "cts", "credentials": [{"accessKey": "$S3_ACCESS_KEY", "secretKey": "$S3_SECRET_KEY"}],
 "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
END

(
    until echo s3.bucket.list | /opt/weed/bin/weed shell -master=localhost:9333 >/dev/null 2>&1; do sleep 1; done
    for bucket in $S3_BUCKETS; do
        echo "s3.bucket.create -name $bucket" | /opt/weed/bin/weed shell -master=localhost:9333
    done
    touch /tmp/ready
) &

exec /opt/weed/bin/weed -logtostderr=true mini -dir=/data -ip=127.0.0.1 -ip.bind=0.0.0.0 -s3.config=/tmp/identities.json \
    -s3.port=8333 -s3.port.iceberg=0 -s3.port.lance=0 -master.telemetry=false -admin.ui=false -webdav=false
