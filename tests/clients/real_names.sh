# The machine of `real_names.rs`: a network of its own, in which two of Google's names are this machine's, and an
# authority of its own, which this machine trusts. Runs in private network, mount and process namespaces.
#
# Takes the stand-in, the sandbox's directory, and the command that a user would type.

set -eu
stand_in=$1 top=${2%/}
shift 2

ip link set lo up

mkdir "$top/google"
"$stand_in" --listen 127.0.0.1:443 --no-metadata --directory "$top/google" \
    --name europe-west1-python.pkg.dev --name oauth2.googleapis.com \
    --public-origin https://oauth2.googleapis.com >"$top/google/ready" &
for _ in $(seq 200); do
    grep -q ready "$top/google/ready" && break
    sleep 0.05
done
grep -q ready "$top/google/ready"

printf '127.0.0.1 localhost europe-west1-python.pkg.dev oauth2.googleapis.com\n' >"$top/google/hosts"
mount --bind "$top/google/hosts" /etc/hosts
# All that this machine trusts, in the one place where OpenSSL and rustls both look.
mount -t tmpfs tmpfs /etc/ssl/certs
cp "$top/google/ca.pem" /etc/ssl/certs/ca-certificates.crt

# What gcloud leaves when a developer signs in.
mkdir -p "$top/home/.config/gcloud"
cp -p "$top/google/adc.json" "$top/home/.config/gcloud/application_default_credentials.json"

env -i HOME="$top/home" XDG_RUNTIME_DIR="$top/run" TMPDIR="$top/tmp" PATH="$top/bin" LANG=C.UTF-8 "$@"
