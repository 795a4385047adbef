//! A backup that does not look like the ones before it.

use serde::{Deserialize, Serialize};

/// In what a source is far from what it was. A later version may know more kinds: stored ones are read as [`Self::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnomalyKind {
    /// A large share of what the point before had is gone.
    MassDeletion,
    /// Far more or far less than in the recent points.
    Size,
    /// Far more of it is new than in the recent points.
    ChangeRate,
    /// What could be compressed no longer can: as if somebody had encrypted it.
    Entropy,
    /// Something that this version does not know.
    #[serde(other)]
    Other,
}

/// A source that is far from what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anomaly {
    /// Name of the source.
    pub source: String,
    /// In what.
    pub kind: AnomalyKind,
    /// With figures: `84 % of 120,000 objects of the point before are gone`.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::{Anomaly, AnomalyKind};

    #[test]
    fn a_kind_that_a_later_version_stored_is_read_and_not_an_error() {
        let stored = r#"{"source":"db","kind":"vanished-rows","message":"m","more":1}"#;
        assert_eq!(serde_json::from_str::<Anomaly>(stored).unwrap().kind, AnomalyKind::Other);
        let known = stored.replace("vanished-rows", "mass-deletion");
        assert_eq!(serde_json::from_str::<Anomaly>(&known).unwrap().kind, AnomalyKind::MassDeletion);
    }
}
