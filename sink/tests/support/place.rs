//! The kinds of places that a history can be kept in.

use std::future::Future;

use bygone_sink::store::{Location, Store, StoreOptions};
use tempfile::TempDir;

use crate::support::s3_server::{S3Server, unique};

/// A directory as a store, removed with the value.
pub(crate) fn directory() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = at(&directory);
    (directory, store)
}

/// Another opening of the same directory.
pub(crate) fn at(directory: &TempDir) -> Store {
    let location = Location::parse(directory.path().join("history").to_str().unwrap()).unwrap();
    Store::open(&location, &StoreOptions::default()).unwrap()
}

/// Runs a test on a directory and on a bucket.
pub(crate) fn each<F: Future<Output = ()>>(test: impl Fn(Store) -> F) {
    let (_directory, store) = directory();
    block_on(test(store));
    block_on(test(S3Server::shared().store(&unique())));
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
