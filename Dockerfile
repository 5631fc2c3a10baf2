# A broker in a container:
#   docker build -t qbroker . && docker run -p 127.0.0.1:7650:7650 -v qbroker-data:/var/lib/qbroker qbroker
# It listens beyond loopback, so it asks for a token; the first start makes one and writes it to
# /var/lib/qbroker/bootstrap-token. compose.yaml shows how to use it.

FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The caches hold what the dependencies became. Cargo tells by a file's time whether it is built already,
# and COPY keeps the times of the checkout, where an older commit's pass for built: so all are made new.
# With its lines compressed, a third is left of the binary, and backtraces still have them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,id=qbroker-target,sharing=locked,target=/src/target \
    find . -path ./target -prune -o -type f -exec touch {} + \
    && cargo build --release --locked -p qbroker --bin qbroker \
    && install -d /out \
    && objcopy --compress-debug-sections=zlib target/release/qbroker /out/qbroker

FROM docker.io/library/debian:bookworm-slim
LABEL org.opencontainers.image.title="qbroker" \
      org.opencontainers.image.description="A durable message broker in one binary" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
# The volume starts out with this owner and mode, which not every builder's COPY keeps of a folder.
RUN install -d -m 0700 -o 65532 -g 65532 /var/lib/qbroker
COPY --from=build /out/qbroker /usr/local/bin/qbroker
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
