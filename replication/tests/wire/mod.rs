//! The wire: connecting, authentication, TLS, queries, COPY, the stream.

mod authentication;
mod copy;
mod session;
mod stream;
mod tls;
