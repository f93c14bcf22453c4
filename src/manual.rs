//! Completions for shells, and manual pages: both out of the command line's own definition.

use clap::CommandFactory as _;

use crate::cli::{Cli, Completions, Man};
use crate::error::{Error, Result};
use crate::query::sheet::print;

/// Prints completions.
pub(crate) fn completions(arguments: &Completions) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "bygone", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Writes a page for bygone and one for each of its commands.
pub(crate) fn pages(arguments: &Man) -> Result<()> {
    let at = &arguments.directory;
    std::fs::create_dir_all(at).and_then(|()| clap_mangen::generate_to(Cli::command(), at)).map_err(|error| {
        Error::other(format!(
            "cannot write manual pages to {}: {error}; name another directory",
            at.display()
        ))
    })
}
