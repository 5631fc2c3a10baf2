#!/usr/bin/env bash
# Generates the Python client from the .proto files, into generated/. The Python with grpcio-tools is
# the one that PYTHON names, by default that of the virtual environment that run.sh makes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

rm -rf generated
mkdir generated
"${PYTHON:-.venv/bin/python}" -m grpc_tools.protoc --proto_path=../../proto \
    --python_out=generated --pyi_out=generated --grpc_python_out=generated \
    qbroker/v1/{types,publisher_service,consumer_service,admin_service,state_service,schedule_service}.proto
