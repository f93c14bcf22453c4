//! Completions, manual pages, and what a build says of itself.

use crate::support::bygone::Bygone;
use crate::support::scratch::Scratch;

#[test]
fn shells_and_man_know_every_command() {
    let scratch = Scratch::new("manual");
    let bygone = Bygone::new("postgres://localhost/none", scratch.join("history"));
    let help = bygone.command(&["--help"]).well().stdout;
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() >= 25, "{commands:?}");
    let pages = scratch.join("man");
    bygone.command(&["man", pages.to_str().unwrap()]).well();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = bygone.command(&["completions", shell]).well().stdout;
        for command in &commands {
            assert!(text.contains(command), "{shell} does not know {command}");
        }
    }
    for command in commands.iter().filter(|command| **command != "help") {
        let page = std::fs::read_to_string(pages.join(format!("bygone-{command}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{command}");
    }
    let version = bygone.command(&["--version"]).well().stdout;
    assert!(version.starts_with("bygone ") && version.contains("rustc "), "{version}");
}
