# A broker in a container:
#   docker build -t qbroker . && docker run -p 127.0.0.1:7650:7650 -v qbroker-data:/var/lib/qbroker qbroker
# It listens beyond loopback, so it asks for a token; the first start makes one and writes it to
# /var/lib/qbroker/bootstrap-token. compose.yaml shows how to use it.

FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p qbroker --bin qbroker \
    && install -D -m 0755 target/release/qbroker /out/qbroker \
    && install -d -m 0700 -o 65532 -g 65532 /out/data

FROM docker.io/library/debian:bookworm-slim
LABEL org.opencontainers.image.title="qbroker" \
      org.opencontainers.image.description="A durable message broker in one binary" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /out/qbroker /usr/local/bin/qbroker
# The volume starts out with this owner.
COPY --from=build --chown=65532:65532 /out/data /var/lib/qbroker
USER 65532:65532
ENV QBROKER_DATA_DIR=/var/lib/qbroker \
    QBROKER_GRPC_LISTEN=0.0.0.0:7650 \
    QBROKER_HTTP_LISTEN=0.0.0.0:7651 \
    QBROKER_LOG_FORMAT=json
VOLUME /var/lib/qbroker
EXPOSE 7650 7651
STOPSIGNAL SIGTERM
# By HTTP, which works without a token and whatever certificate gRPC has.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/qbroker", "health", "--http"]
ENTRYPOINT ["/usr/local/bin/qbroker"]
CMD ["serve"]
