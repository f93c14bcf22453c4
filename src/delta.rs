//! The Delta Lake view: beside a capture, and on demand (`bygone delta`).

use bygone_sink::delta::DeltaView;
use bygone_sink::failpoint;
use bygone_sink::read::Archive;
use bygone_sink::store::{Location, Store, StoreOptions};

use crate::cli::Delta;
use crate::error::Result;
use crate::follower::Sink;

/// The view of a capture's own history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View;

impl Sink for View {
    type Open = DeltaView;

    fn what(&self) -> &'static str {
        "the Delta Lake view"
    }

    fn label(&self) -> &'static str {
        "delta"
    }

    async fn open(&self, store: &Store) -> Result<DeltaView> {
        Ok(DeltaView::open(Archive::open_whole(store, None).await?).await?)
    }

    async fn catch_up(open: &mut DeltaView) -> Result<u64> {
        Ok(open.catch_up().await?)
    }

    fn next(open: &DeltaView) -> u64 {
        open.next()
    }
}

/// Makes the view, or has it catch up.
pub(crate) async fn delta(arguments: &Delta) -> Result<()> {
    failpoint::init()?;
    let store = Store::open(&Location::parse(&arguments.history.history)?, &StoreOptions::default())?;
    let mut view = View.open(&store).await?;
    let shown = view.catch_up().await?;
    eprintln!(
        "bygone: {shown} commits taken; the Delta tables are tables/…/_delta_log and transactions/_delta_log"
    );
    Ok(())
}
