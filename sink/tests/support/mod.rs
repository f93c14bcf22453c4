//! What the scenarios are built with.

pub(crate) mod fixture;
pub(crate) mod place;
pub(crate) mod proxy;
pub(crate) mod s3_server;
