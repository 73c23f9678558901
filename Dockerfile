# The image of DES Fleet: one binary, no shell, no root. docs/install.md says why it is as it is.
#
#   docker build -t des-fleet .                     des
#   docker build -t des-samples --target samples .  the generator of sample files besides

FROM rust:1.95-slim-bookworm AS build
# gcc and libc6-dev are in the image: aws-lc-rs, zstd and SQLite are C.
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --package des-fleet --package loadtest \
    && mkdir -p /out/data /out/spool \
    && cp target/release/des target/release/loadtest /out/ \
    && strip --strip-debug /out/des /out/loadtest

# glibc, libgcc, CA certificates and the user nonroot (65532), and nothing else.
FROM gcr.io/distroless/cc-debian12:nonroot AS base
# Named volumes that are mounted here take over their owner.
COPY --from=build --chown=65532:65532 /out/spool /var/spool/des
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532

FROM base AS samples
COPY --from=build /out/loadtest /usr/local/bin/loadtest
ENTRYPOINT ["/usr/local/bin/loadtest"]

FROM base AS des
COPY --from=build /out/des /usr/local/bin/des
EXPOSE 8080
# SIGTERM drains: give it more time than worker.drain_timeout before it is killed.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/des"]
CMD ["help"]
