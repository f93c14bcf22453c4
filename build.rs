//! What `bygone --version` says of the build.

use std::process::Command;

fn main() {
    // Not every build is one of a clone: whoever copies the sources elsewhere may say what they are.
    let told = std::env::var("BYGONE_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = told.or_else(|| said(Command::new("git").args(["rev-parse", "--short=12", "HEAD"])));
    let rustc =
        said(Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned())).arg("--version"));
    let short = rustc.as_deref().and_then(|text| text.split(' ').nth(1)).unwrap_or("unknown");
    let profile = std::env::var("PROFILE").unwrap_or_default();
    let target = std::env::var("TARGET").unwrap_or_default();
    let version = format!(
        "{} ({}, rustc {short}, {target}, {profile})",
        env!("CARGO_PKG_VERSION"),
        commit.as_deref().map_or_else(|| "not of a clone".to_owned(), |commit| format!("commit {commit}"))
    );
    println!("cargo::rustc-env=BYGONE_VERSION={version}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=BYGONE_COMMIT");
    for path in [".git/HEAD", ".git/refs/heads"] {
        if std::path::Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
