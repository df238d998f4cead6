#!/bin/sh
# certificates.sh DIR: the test CA in DIR (ca.pem, ca.key; made if it is not there or ends within a day) and, anew, a certificate of it
# (cert.pem, key.pem) for every vendor's name. Only images that are built with ca.pem trust it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
umask 077
if ! openssl x509 -in ca.pem -noout -checkend 86400 >/dev/null 2>&1; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -subj "/CN=Airlock test CA" \
    -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem 2>/dev/null
fi
names=$(node "$here/main.mjs" --names)
names=$(printf '%s\n' "$names" | sed 's/^/DNS:/' | paste -sd, -)
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=Airlock test vendors" -keyout key.pem -out cert.csr 2>/dev/null
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' "$names" >extensions
openssl x509 -req -in cert.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out cert.pem 2>/dev/null
rm -f cert.csr extensions
