# The service as a container image: built from the locked dependencies, run without privileges.
#
#   docker build -t as-infrastructure-service:1.0.0 .
#   docker run --rm -p 3106:3106 -v infra-data:/app/data as-infrastructure-service:1.0.0
#
# Needs a builder with cache mounts: BuildKit (the default of Docker 23 and later) or Buildah.

FROM rust:1.95-slim-bookworm AS builder

# A C compiler builds the bundled SQLite and ring. The base image has one; said here because the build depends on it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /build
COPY . .

# The cache mounts keep downloaded crates and compiled dependencies, so that a change of our sources compiles only them.
# `touch`: cargo compares file times, and a checkout may be older than what the cache holds.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin as-infrastructure-service \
    && install -D -m 0755 target/release/as-infrastructure-service /out/as-infrastructure-service


FROM debian:bookworm-slim

ARG VERSION=1.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="as-infrastructure-service" \
      org.opencontainers.image.description="Health monitoring of internal services: probes, verdicts, outages, alerts, one JSON API" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"

# CA certificates are what https targets, webhooks, rediss:// and PostgreSQL over TLS are verified with.
# /app/data is all the service writes to; a volume put there for the first time takes over its owner.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -m 0755 /app \
    && install -d -m 0750 -o 10001 -g 10001 /app/data

WORKDIR /app
COPY --from=builder /out/as-infrastructure-service /usr/local/bin/as-infrastructure-service
COPY config /app/config

# Two malloc arenas instead of eight for each core: less memory held back.
ENV METRICS_STORAGE_URL=sqlite:////app/data/records.db \
    MALLOC_ARENA_MAX=2

USER 10001:10001
EXPOSE 3106
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["/usr/local/bin/as-infrastructure-service", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/as-infrastructure-service"]
