# A menu. Each line is plain cargo or docker: nobody needs `just`.

# What there is
default:
    @just --list

# What CI runs
check:
    .ci/run

# Tests, all or some
test *args:
    cargo test --workspace {{ args }}

# All tests, the slow ones at their full length
slow:
    QBROKER_SLOW=1 cargo test --workspace

# The broker, without optimisation
run *args="serve":
    cargo run -- {{ args }}

# 100,000 jobs through a broker that is killed on the way
jobs *args:
    cargo run --release -p qbroker-examples -- {{ args }}

# The broker's figures beside the floor's
bench *args="quick":
    cargo run --release -p qbroker-benchmarks -- {{ args }}

# The documentation of every crate
docs:
    cargo doc --workspace --no-deps --open

# Licences, sources and known vulnerabilities of the dependencies
deny:
    cargo deny check

# The container image
image:
    docker build -t qbroker .
