FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin bygone

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 bygone
COPY --from=build /src/target/release/bygone /usr/local/bin/bygone
USER bygone
# The state is a cache: losing this volume loses nothing.
ENV XDG_STATE_HOME=/home/bygone/state
ENTRYPOINT ["bygone"]
CMD ["--help"]
