//! `bygone hash`: the hash that stands for a value.

use std::io::Read as _;

use crate::capture::read_hash_key;
use crate::cli::Hash;
use crate::error::{Error, Result};
use crate::screen::tell;

/// Prints it.
pub(crate) fn hash(arguments: &Hash) -> Result<()> {
    let key = read_hash_key(&arguments.hash_key_file)?;
    let value = match &arguments.value {
        Some(value) => value.clone().into_bytes(),
        None => {
            let mut read = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut read)
                .map_err(|error| Error::other(format!("the value cannot be read: {error}")))?;
            if read.last() == Some(&b'\n') {
                read.pop();
            }
            read
        }
    };
    tell!("{}", key.hash(&value));
    Ok(())
}
