//! The site's time, held against this machine's.

use chrono::{DateTime, Utc};

use super::{CLOCK_TOLERANCE, RepositoryError, error::Result};
use crate::{
    clock::SharedClock,
    stores::{SharedStore, StoreError},
};

/// The site's time, where this machine's clock does not differ from it by more than five minutes: a machine whose clock is wrong would
/// date points wrongly, lock too long or too short, and judge wrongly what may go. A store that cannot tell its time is believed to
/// have ours.
///
/// # Errors
/// [`RepositoryError::Refused`] that names both times; the store's.
pub async fn site_time(store: &SharedStore, clock: &SharedClock) -> Result<DateTime<Utc>> {
    let now = match store.time().await {
        Ok(now) => now,
        Err(StoreError::Unsupported { .. }) => return Ok(clock.now()),
        Err(error) => return Err(error.into()),
    };
    let ours = clock.now();
    if (now - ours).abs() > CLOCK_TOLERANCE {
        return Err(RepositoryError::Refused {
            subject: store.describe(),
            detail: format!(
                "the site's clock shows {now} and this machine's {ours}: nothing is written or deleted while they differ by more than {} minutes. Set the clock that is wrong, then run the command again",
                CLOCK_TOLERANCE.num_minutes()
            ),
        });
    }
    Ok(now)
}
