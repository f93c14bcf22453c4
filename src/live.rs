//! What a capture is doing, in one line at the foot of the terminal.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::metrics::{Glance, Metrics};
use crate::query::sheet::Cell;
use crate::screen;

/// How often the line is written anew.
const EVERY: Duration = Duration::from_millis(500);
/// Rates are those of so many last looks.
const LOOKS: usize = 10;

/// The line, until it is dropped.
#[derive(Debug)]
pub(crate) struct Live {
    bar: ProgressBar,
    task: tokio::task::JoinHandle<()>,
}

impl Live {
    /// Begins; none where there is no terminal, or nobody wants to see it.
    pub(crate) fn start(name: &str, metrics: Arc<Metrics>) -> Option<Self> {
        let bar = screen::bar(ProgressBar::new_spinner())?;
        // A line of a log may be as long as it likes; this one is cut off at the terminal's edge.
        let style = ProgressStyle::with_template("{spinner} {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let (name, shown) = (name.to_owned(), bar.clone());
        let task = tokio::spawn(async move {
            let mut looks: VecDeque<(Instant, u64)> = VecDeque::new();
            loop {
                let glance = metrics.glance();
                looks.push_back((Instant::now(), glance.facts));
                if looks.len() > LOOKS {
                    looks.pop_front();
                }
                shown.set_message(line(&name, &glance, rate(&looks)));
                shown.tick();
                tokio::time::sleep(EVERY).await;
            }
        });
        Some(Self { bar, task })
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

/// Facts a second, over the looks.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(looks: &VecDeque<(Instant, u64)>) -> f64 {
    match (looks.front(), looks.back()) {
        (Some((begun, before)), Some((now, facts))) if now > begun => {
            facts.saturating_sub(*before) as f64 / now.duration_since(*begun).as_secs_f64()
        }
        _ => 0.0,
    }
}

/// `bygone: 1234 facts/s, 5.0 KiB (0.2 s) behind, commit 17 (3 s ago), 45678 facts`
fn line(name: &str, glance: &Glance, rate: f64) -> String {
    let doing = if glance.streaming { format!("{rate:.0} facts/s") } else { "connecting".to_owned() };
    let behind = if glance.lag_bytes == 0 {
        "up to date".to_owned()
    } else {
        format!("{} ({:.1} s) behind", Cell::bytes(glance.lag_bytes).text(), glance.lag_seconds)
    };
    let commit = glance
        .last_commit
        .map_or_else(String::new, |(seq, age)| format!(", commit {seq} ({} s ago)", age.as_secs()));
    let copied = match glance.tables_waiting {
        0 => String::new(),
        1 => ", 1 table to be copied".to_owned(),
        tables => format!(", {tables} tables to be copied"),
    };
    format!("{name}: {doing}, {behind}{commit}{copied}, {} facts", glance.facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_into_a_terminal_and_says_what_matters() {
        let mut glance = Glance { streaming: true, facts: 45_678, ..Glance::default() };
        assert_eq!(line("shop", &glance, 0.0), "shop: 0 facts/s, up to date, 45678 facts");
        glance.lag_bytes = 5 << 10;
        glance.lag_seconds = 0.21;
        glance.last_commit = Some((17, Duration::from_secs(3)));
        let told = line("shop", &glance, 1234.4);
        assert_eq!(told, "shop: 1234 facts/s, 5.0 KiB (0.2 s) behind, commit 17 (3 s ago), 45678 facts");
        assert!(told.len() < 78);
        let now = Instant::now();
        let looks = VecDeque::from([(now, 100), (now + Duration::from_secs(2), 300)]);
        assert_eq!(rate(&looks), 100.0);
    }
}
