#!/bin/bash
# How a shell script verifies backups: one after the other, each in a server of its own that is made with
# the defaults of initdb and postgresql.conf, by psql; one table at least must be there afterwards.
#
#   per_server.sh FOLDER SOCKETS USER FILE...
#
# AS is what to put before PostgreSQL's programs so that they do not run as root. Of its own, the server
# has only what a test run must have: a folder for its socket, and no TCP port.
set -euo pipefail

data=$1/data
sockets=$2
user=$3
shift 3
read -ra as <<< "${AS:-}"
client=(-h "$sockets" -U "$user")

end() {
    [[ ! -e $data/postmaster.pid ]] || "${as[@]}" pg_ctl -D "$data" -s -m immediate stop || true
    rm -rf "$data"
}
trap end EXIT
trap 'exit 143' TERM INT

for file; do
    "${as[@]}" initdb -D "$data" -U "$user" > /dev/null
    "${as[@]}" pg_ctl -D "$data" -w -s -l "$data/log" -o "-k '$sockets' -c listen_addresses=''" start
    # As the source was made. What initdb takes from the environment would be slower, or not UTF-8.
    "${as[@]}" createdb "${client[@]}" -T template0 -E UTF8 --locale=C restored
    gunzip -c "$file" | "${as[@]}" psql "${client[@]}" -v ON_ERROR_STOP=1 -X -q -d restored > /dev/null
    tables=$("${as[@]}" psql "${client[@]}" -XAt -d restored -c \
        "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'")
    ((tables >= 1))
    "${as[@]}" pg_ctl -D "$data" -s -m fast stop
    rm -rf "$data"
done
