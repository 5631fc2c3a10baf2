#!/usr/bin/env bash
# Makes the virtual environment, generates the client, starts a broker on a free port, runs
# publish_pull_settle.py against it and stops the broker. Fails where any of it does.
#
# The broker is the one that QBROKER_PROGRAM names; without it, cargo builds one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [[ -z "${QBROKER_PROGRAM:-}" ]]; then
    cargo build --quiet -p qbroker --bin qbroker
    target=$(cargo metadata --format-version 1 --no-deps | python3 -c \
        'import json, sys; print(json.load(sys.stdin)["target_directory"])')
    QBROKER_PROGRAM=$target/debug/qbroker
fi

# Made anew where what it must hold has changed.
if ! cmp --quiet requirements.txt .venv/requirements.txt; then
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --requirement requirements.txt
    cp requirements.txt .venv/
fi
./generate.sh

folder=$(mktemp -d)
broker=
stop() {
    [[ -z "$broker" ]] || kill "$broker" 2>/dev/null || true
    wait
    rm -rf "$folder"
}
trap stop EXIT

"$QBROKER_PROGRAM" serve --data-dir "$folder/data" --log-format json \
    --grpc-listen 127.0.0.1:0 --http-listen 127.0.0.1:0 2>"$folder/log" &
broker=$!
# The start line of the log names the port.
until address=$(grep --only-matching --max-count=1 '"grpc":"[^"]*"' "$folder/log"); do
    if ! kill -0 "$broker" 2>/dev/null; then
        cat "$folder/log" >&2
        exit 1
    fi
    sleep 0.05
done
address=${address#'"grpc":"'}

.venv/bin/python publish_pull_settle.py "${address%'"'}"

# It must also end well.
kill -TERM "$broker"
wait "$broker"
broker=
