# An image of bygone and nothing else: no shell, no package manager, not root.
#
#   docker build --build-arg COMMIT="$(git rev-parse --short=12 HEAD)" --tag bygone .
#
# The same image again: nothing is fetched but the two bases and the crates, which Cargo.lock names with their hashes, and the paths of the
# build are always the same. Tags of bases move; whoever needs the image bit by bit gives both by digest, and one clock:
#
#   docker buildx build --build-arg RUST=rust@sha256:… --build-arg BASE=gcr.io/distroless/cc-debian12@sha256:… \
#       --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" --output type=image,name=bygone,rewrite-timestamp=true .
ARG RUST=rust:1.95.0-bookworm
# libc, certificates of authorities and time zones, of the Debian that the build is of; its user nonroot has the id 65532.
ARG BASE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST} AS build
WORKDIR /src
COPY . .
ARG COMMIT=
ENV BYGONE_COMMIT=${COMMIT} CARGO_INCREMENTAL=0
RUN cargo build --release --locked --bin bygone

FROM ${BASE}
COPY --from=build /src/target/release/bygone /usr/local/bin/bygone
USER 65532:65532
# The state is a cache: losing it loses nothing.
ENV XDG_STATE_HOME=/home/nonroot/state
# A command for --password-command would need a shell: build on debian:bookworm-slim for that, with the package ca-certificates.
ENTRYPOINT ["/usr/local/bin/bygone"]
CMD ["--help"]
