//! Where a history lies, as its readers see it: names, sizes and bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Runtime;

/// A place that holds a history.
#[derive(Debug)]
pub(crate) enum Store {
    /// A directory.
    Directory(PathBuf),
    /// A prefix of a bucket.
    Bucket {
        /// The client.
        client: Box<dyn ObjectStore>,
        /// The prefix, without a slash at its end.
        prefix: String,
        /// Where the client's work is driven.
        runtime: Runtime,
    },
}

impl Store {
    pub(crate) fn directory(at: impl Into<PathBuf>) -> Self {
        Self::Directory(at.into())
    }

    pub(crate) fn bucket(client: impl ObjectStore, prefix: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self::Bucket { client: Box::new(client), prefix: prefix.to_owned(), runtime }
    }

    /// All that is there: path from the history's root, and size in bytes. Hidden and half-written files count.
    pub(crate) fn list(&self) -> BTreeMap<String, u64> {
        match self {
            Self::Directory(root) => {
                let mut found = BTreeMap::new();
                walk(root, root, &mut found);
                found
            }
            Self::Bucket { client, prefix, runtime } => {
                let base = object_store::path::Path::from(prefix.as_str());
                let listed: Vec<_> = runtime.block_on(client.list(Some(&base)).try_collect()).unwrap();
                let named = listed.into_iter().map(|object| {
                    let whole = object.location.as_ref();
                    let path = whole.strip_prefix(prefix.as_str()).unwrap_or(whole).trim_start_matches('/');
                    (path.to_owned(), object.size)
                });
                named.collect()
            }
        }
    }

    /// The bytes of one object; `None` when it is not there.
    pub(crate) fn read(&self, path: &str) -> Option<Vec<u8>> {
        match self {
            Self::Directory(root) => fs::read(root.join(path)).ok(),
            Self::Bucket { client, prefix, runtime } => {
                let location = object_store::path::Path::parse(format!("{prefix}/{path}")).unwrap();
                let got = runtime.block_on(async { client.get(&location).await?.bytes().await });
                match got {
                    Ok(bytes) => Some(bytes.to_vec()),
                    Err(object_store::Error::NotFound { .. }) => None,
                    Err(error) => panic!("cannot read {path}: {error}"),
                }
            }
        }
    }
}

fn walk(root: &Path, at: &Path, found: &mut BTreeMap<String, u64>) {
    // What vanishes while it is looked at was never part of a history at rest.
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            walk(root, &path, found);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.insert(name, metadata.len());
        }
    }
}
